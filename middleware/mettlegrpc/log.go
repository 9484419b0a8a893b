package mettlegrpc

import (
	"log/slog"
	"strings"
	"unicode"

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

// ErrorType returns the status as OpenTelemetry's conventions for RPC have it, such as
// "DEADLINE_EXCEEDED": the error.type of a span.
func (e *attemptError) ErrorType() string {
	var b strings.Builder
	for i, r := range status.Code(e.err).String() {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}
