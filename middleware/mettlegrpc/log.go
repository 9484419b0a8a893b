package mettlegrpc

import (
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors that only add a mark for policies or for gRPC are logged as what they hold.

func (e *attemptError) LogValue() slog.Value { return slog.AnyValue(e.err) }
func (e *statusError) LogValue() slog.Value  { return slog.AnyValue(e.err) }

// LogValue returns the text, and the error of the attempt before by its fields.
func (e *onceError) LogValue() slog.Value {
	why := (&onceError{}).Error()
	if e.last == nil {
		return slog.StringValue(why)
	}
	return slog.GroupValue(slog.String("refused", why), slog.Any("last", e.last))
}

// ErrorType returns the status by gRPC's name for it, such as "DEADLINE_EXCEEDED", which is
// what OpenTelemetry's conventions have as the error.type of a span. A code that is none of
// gRPC's is "UNKNOWN", so that a server cannot make up types without end.
func (e *attemptError) ErrorType() string {
	if code := int(status.Code(e.err)); code < len(codeNames) {
		return codeNames[code]
	}
	return codeNames[codes.Unknown]
}

var codeNames = [...]string{
	codes.OK:                 "OK",
	codes.Canceled:           "CANCELLED",
	codes.Unknown:            "UNKNOWN",
	codes.InvalidArgument:    "INVALID_ARGUMENT",
	codes.DeadlineExceeded:   "DEADLINE_EXCEEDED",
	codes.NotFound:           "NOT_FOUND",
	codes.AlreadyExists:      "ALREADY_EXISTS",
	codes.PermissionDenied:   "PERMISSION_DENIED",
	codes.ResourceExhausted:  "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION",
	codes.Aborted:            "ABORTED",
	codes.OutOfRange:         "OUT_OF_RANGE",
	codes.Unimplemented:      "UNIMPLEMENTED",
	codes.Internal:           "INTERNAL",
	codes.Unavailable:        "UNAVAILABLE",
	codes.DataLoss:           "DATA_LOSS",
	codes.Unauthenticated:    "UNAUTHENTICATED",
}
