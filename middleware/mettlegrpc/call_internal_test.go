package mettlegrpc

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A detached context ends with the one and knows what the other does, and what is derived
// from it costs no goroutine, whether or not package context shows its key.
func TestDetached(t *testing.T) {
	assert.NotNil(t, cancelKey, "package context has stopped asking")
	defer func(key any) { cancelKey = key }(cancelKey)
	type key struct{}
	for _, cancelKey = range []any{cancelKey, nil} {
		call := context.WithValue(t.Context(), key{}, "call")
		policy, expire := context.WithCancelCause(context.WithValue(call, key{}, "policy"))
		life, end := context.WithCancelCause(call)
		d := &detached{life, policy}
		assert.Equal(t, "policy", d.Value(key{}))

		before := runtime.NumGoroutine()
		child, cancel := context.WithCancel(d)
		defer cancel()
		assert.Equal(t, before, runtime.NumGoroutine())

		expire(errors.New("the policy's"))
		assert.NoError(t, d.Err())
		assert.NoError(t, child.Err())
		gone := errors.New("the call's")
		end(gone)
		assert.Equal(t, gone, context.Cause(d))
		assert.Equal(t, gone, context.Cause(child))
	}
}
