package mettlehttp

import (
	"log/slog"
	"strconv"
)

// LogValue returns the status, the host, the wait that the server asked for and what kept
// the request from being sent again, as far as there are these, as a group.
func (e *StatusError) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Int("status", e.Code), slog.String("host", e.host)}
	if e.retryAfter >= 0 {
		attrs = append(attrs, slog.Duration("retry_after", e.retryAfter))
	}
	if e.onceOnly != "" {
		attrs = append(attrs, slog.String("not_resent", e.onceOnly))
	}
	return slog.GroupValue(attrs...)
}

func (bodyTimeout) LogValue() slog.Value { return slog.StringValue(bodyTimeout{}.Error()) }

// LogValue returns the text, and the error of the attempt before by its fields.
func (e *notResentError) LogValue() slog.Value {
	why := (&notResentError{}).Error()
	if e.last == nil {
		return slog.StringValue(why)
	}
	return slog.GroupValue(slog.String("refused", why), slog.Any("last", e.last))
}

// LogValue returns that of the error itself, or a group where there is more to say.
func (e *attemptError) LogValue() slog.Value {
	if e.cause == nil && e.onceOnly == "" {
		return slog.AnyValue(e.err)
	}
	attrs := []slog.Attr{slog.Any("err", e.err)}
	if e.cause != nil {
		attrs = append(attrs, slog.Any("cause", e.cause))
	}
	if e.onceOnly != "" {
		attrs = append(attrs, slog.String("not_resent", e.onceOnly))
	}
	return slog.GroupValue(attrs...)
}

func (e timeoutError) LogValue() slog.Value { return slog.AnyValue(e.error) }

// ErrorType returns the status as OpenTelemetry's conventions for HTTP have it, such as
// "503": the error.type of a span.
func (e *StatusError) ErrorType() string { return strconv.Itoa(e.Code) }
