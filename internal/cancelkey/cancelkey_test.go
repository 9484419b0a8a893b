package cancelkey

import (
	"context"
	"testing"
)

// A context that answers with another's cancellation by Key is taken for that one.
func TestKey(t *testing.T) {
	if Key == nil {
		t.Fatal("package context does not ask for a key")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if ctx.Value(Key) == nil {
		t.Error("a context that can be cancelled has no value by Key")
	}
	if v := context.Background().Value(Key); v != nil {
		t.Errorf("one that cannot has %v", v)
	}
}
