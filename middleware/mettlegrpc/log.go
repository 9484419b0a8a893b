package mettlegrpc

import "log/slog"

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
