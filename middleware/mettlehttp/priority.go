package mettlehttp

import (
	"context"
	"strconv"
	"strings"
)

const (
	defaultUrgency = 3 // RFC 9218 section 4.1
	maxUrgency     = 7
	// maxPriority bounds what is read of the header. Those of browsers take six bytes.
	maxPriority = 256
)

// Urgency returns how urgent its client says the request is, by the Priority header of
// RFC 9218: from 0, the most urgent, to 7, and 3 where it says nothing that can be
// understood. ctx is that of the policy or of next in a handler that [NewHandler] made, or
// one derived from it; of any other the urgency is 3. It is for policies that treat
// requests by their class:
//
//	pools := bulkhead.NewPartition(bulkhead.PartitionConfig{Pools: []bulkhead.PoolConfig{
//		{Name: "interactive", Limit: 60}, {Name: "background", Limit: 40, Lend: 20}}})
//	handler := mettlehttp.NewHandler(next, pools.By(func(ctx context.Context) string {
//		if mettlehttp.Urgency(ctx) > 3 {
//			return "background"
//		}
//		return "interactive"
//	}))
//
// The header is read when Urgency is called. What it says is the client's word: one that
// is not to be trusted with its own importance will say 0.
func Urgency(ctx context.Context) int {
	if s, ok := ctx.Value(servingKey{}).(*serving); ok {
		return urgency(s.r.Header["Priority"])
	}
	return defaultUrgency
}

// urgency returns the u of a structured dictionary (RFC 8941 section 4.2.2), which is
// ignored whole when any of it is malformed, and where what is there twice counts as it
// is there last.
func urgency(lines []string) int {
	length := 0
	for _, line := range lines {
		length += len(line)
	}
	if length == 0 || length > maxPriority {
		return defaultUrgency
	}
	f := field{strings.Trim(strings.Join(lines, ","), " ")}
	u := defaultUrgency
	for {
		key, value, ok := f.member()
		if !ok {
			return defaultUrgency
		}
		if key == "u" {
			u = defaultUrgency
			if n, err := strconv.Atoi(value); err == nil && n >= 0 && n <= maxUrgency {
				u = n
			}
		}
		f.skip(" \t")
		if f.rest == "" {
			return u
		}
		if !f.eat(',') {
			return defaultUrgency
		}
		f.skip(" \t")
	}
}

// field is what is left to read of a structured field (RFC 8941).
type field struct{ rest string }

const (
	digits = "0123456789"
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// run takes as many of the characters in set as come next.
func (f *field) run(set string) string {
	n := 0
	for n < len(f.rest) && strings.IndexByte(set, f.rest[n]) >= 0 {
		n++
	}
	s := f.rest[:n]
	f.rest = f.rest[n:]
	return s
}

func (f *field) skip(set string) { f.run(set) }

// eat takes c if it comes next.
func (f *field) eat(c byte) bool {
	if f.rest == "" || f.rest[0] != c {
		return false
	}
	f.rest = f.rest[1:]
	return true
}

// starts reports whether one of the characters in set comes next.
func (f *field) starts(set string) bool {
	return f.rest != "" && strings.IndexByte(set, f.rest[0]) >= 0
}

func (f *field) key() (key string, ok bool) {
	ok = f.starts(lower + "*")
	return f.run(lower + digits + "_-.*"), ok
}

// member takes a member of a dictionary. Its value is as it is written, without
// parameters, and empty where it has none or is a list.
func (f *field) member() (key, value string, ok bool) {
	if key, ok = f.key(); !ok {
		return "", "", false
	}
	switch {
	case !f.eat('='):
	case f.eat('('):
		ok = f.list()
	default:
		value, ok = f.item()
	}
	return key, value, ok && f.parameters()
}

// list takes what is left of an inner list.
func (f *field) list() bool {
	for {
		f.skip(" ")
		if f.eat(')') {
			return true
		}
		if _, ok := f.item(); !ok || !f.parameters() || !f.starts(" )") {
			return false
		}
	}
}

func (f *field) parameters() bool {
	for f.eat(';') {
		f.skip(" ")
		if _, ok := f.key(); !ok {
			return false
		}
		if f.eat('=') {
			if _, ok := f.item(); !ok {
				return false
			}
		}
	}
	return true
}

// item takes a bare item of any type.
func (f *field) item() (text string, ok bool) {
	before := f.rest
	switch {
	case f.starts("-" + digits):
		ok = f.number()
	case f.eat('"'):
		ok = f.quoted()
	case f.eat('?'):
		ok = f.eat('0') || f.eat('1')
	case f.eat(':'):
		f.skip(upper + lower + digits + "+/=")
		ok = f.eat(':')
	case f.starts(upper + lower + "*"):
		f.skip(upper + lower + digits + "!#$%&'*+-.^_`|~:/")
		ok = true
	}
	return before[:len(before)-len(f.rest)], ok
}

// number takes an integer or a decimal.
func (f *field) number() bool {
	f.eat('-')
	whole := len(f.run(digits))
	if !f.eat('.') {
		return whole >= 1 && whole <= 15
	}
	fraction := len(f.run(digits))
	return whole >= 1 && whole <= 12 && fraction >= 1 && fraction <= 3
}

// quoted takes what is left of a string.
func (f *field) quoted() bool {
	for f.rest != "" {
		c := f.rest[0]
		f.rest = f.rest[1:]
		switch {
		case c == '"':
			return true
		case c == '\\':
			if !f.eat('"') && !f.eat('\\') {
				return false
			}
		case c < ' ' || c > '~':
			return false
		}
	}
	return false
}
