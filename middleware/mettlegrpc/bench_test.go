package mettlegrpc_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/mettle-go/mettle"
	"github.com/mettle-go/mettle/middleware/mettlegrpc"
)

// answers is gRPC without a server: what is left is what the interceptor costs.
func answers(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
	ctx.Done() // as gRPC asks
	return nil
}

var costs = []struct {
	name   string
	policy mettle.Policy
	allocs float64
}{
	// The call, with its first attempt, and the operation.
	{"none", direct, 2},
	// And two timeouts, the retry's mark, and a context with a timer for the deadline: five.
	{"standard", mettlegrpc.Standard(""), 10},
}

// What a call allocates besides what gRPC does, as the documentation has it. The policies
// themselves allocate no more than P13 says.
//
// Spec: P13
func TestAllocations(t *testing.T) {
	req, reply := &pb.SimpleRequest{}, &pb.SimpleResponse{}
	for _, tt := range costs {
		intercept := mettlegrpc.UnaryClientInterceptor(tt.policy)
		if got := testing.AllocsPerRun(1000, func() {
			if err := intercept(t.Context(), "/s/m", req, reply, nil, answers); err != nil {
				t.Fatal(err)
			}
		}); got > tt.allocs {
			t.Errorf("%s: %v allocations, want at most %v", tt.name, got, tt.allocs)
		}
	}
}

func BenchmarkUnary(b *testing.B) {
	req, reply := &pb.SimpleRequest{}, &pb.SimpleResponse{}
	for _, tt := range costs {
		b.Run(tt.name, func(b *testing.B) {
			intercept := mettlegrpc.UnaryClientInterceptor(tt.policy)
			b.ReportAllocs()
			for b.Loop() {
				if err := intercept(b.Context(), "/s/m", req, reply, nil, answers); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
