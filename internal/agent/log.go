package agent

import (
	"io"
	"log/slog"
	"strings"
)

// levelTrace is one finer than debug.
const levelTrace = slog.LevelDebug - 4

// newLogger returns the logger of the agent. Its JSON has the keys that `flux logs` reads: ts, level, msg, error, logger,
// controllerKind, name, namespace.
func newLogger(w io.Writer, level, encoding string) *slog.Logger {
	options := &slog.HandlerOptions{Level: logLevel(level), ReplaceAttr: fluxKeys}
	if encoding == "console" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func logLevel(name string) slog.Level {
	switch name {
	case "trace":
		return levelTrace
	case "debug":
		return slog.LevelDebug
	case "error":
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

// fluxKeys renames and formats the attributes that every line has.
func fluxKeys(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("ts", a.Value.Time().UTC().Format("2006-01-02T15:04:05.000Z"))
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok && level < slog.LevelDebug {
			return slog.String(a.Key, "trace")
		}
		return slog.String(a.Key, strings.ToLower(a.Value.String()))
	}
	return a
}
