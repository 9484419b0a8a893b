package ctxkey

import (
	"context"
	"net/http/httptrace"
	"testing"
)

// A context that can be cancelled has a value by the key Cancel, and others have none.
func TestCancel(t *testing.T) {
	if Cancel == nil {
		t.Fatal("package context does not ask for a key")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if ctx.Value(Cancel) == nil {
		t.Error("a context that can be cancelled has no value by Cancel")
	}
	if v := context.Background().Value(Cancel); v != nil {
		t.Errorf("one that cannot has %v", v)
	}
}

func TestAsked(t *testing.T) {
	key := Asked(func(ctx context.Context) { httptrace.ContextClientTrace(ctx) })
	trace := new(httptrace.ClientTrace)
	if ctx := httptrace.WithClientTrace(t.Context(), trace); key == nil || ctx.Value(key) != trace {
		t.Errorf("the key of package httptrace is taken to be %v", key)
	}
	if key := Asked(func(context.Context) {}); key != nil {
		t.Errorf("nobody asked, and the key is %v", key)
	}
}
