package mettlegrpc

import (
	"reflect"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// reply is the caller's reply, and makes others like it.
//
// No two attempts receive into the same message. But one of them may have the caller's,
// when it is empty, as in generated code it always is: it starts with as much as a new
// one, and is emptied again unless the attempt is the result. So a call that succeeds at once
// costs no message and no move.
type reply struct {
	callers any
	typ     protoreflect.MessageType // nil: not protobuf's
	lends   bool                     // to the first attempt
	single  bool                     // there can be no other: no pointer, as the messages of a user's codec may be
}

func replyOf(callers any) reply {
	r := reply{callers: callers}
	if m, ok := callers.(proto.Message); ok {
		// Now, and not when a hedge needs it, which would read what the first attempt writes.
		r.typ = m.ProtoReflect().Type()
		r.lends = proto.Size(m) == 0
		return r
	}
	v := reflect.ValueOf(callers)
	r.single = v.Kind() != reflect.Pointer || v.IsNil()
	r.lends = r.single
	return r
}

// fresh returns an empty message of the same type.
func (r *reply) fresh() any {
	if r.typ != nil {
		return r.typ.New().Interface()
	}
	return reflect.New(reflect.TypeOf(r.callers).Elem()).Interface()
}

// clear makes the caller's message that was lent as empty as it was.
func (r *reply) clear() {
	if r.typ != nil {
		proto.Reset(r.callers.(proto.Message))
	}
}

// move gives to the caller's message what from holds. Nobody else has from, so what
// it points to need not be copied.
func (r *reply) move(from any) {
	if r.typ == nil {
		reflect.ValueOf(r.callers).Elem().Set(reflect.ValueOf(from).Elem())
		return
	}
	dst := r.callers.(proto.Message)
	proto.Reset(dst)
	d, s := dst.ProtoReflect(), from.(proto.Message).ProtoReflect()
	s.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		d.Set(field, value)
		return true
	})
	d.SetUnknown(s.GetUnknown())
}
