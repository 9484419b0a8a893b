// Package paymentspb is made from payments.proto: the payment service over gRPC.
//
// To make it again after a change, with Debian's protobuf-compiler (3.21) and the
// generators that tools/go.mod pins:
//
//	go generate ./examples/orders/internal/payments/paymentspb
package paymentspb

//go:generate sh generate.sh
