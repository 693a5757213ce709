package agent

import (
	"io"
	"log"
	"log/slog"
	"runtime"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
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

// fluxKeys renames and formats the attributes that every line has, and drops the bodies of requests and answers, which client-go
// logs at the level trace: those of Secrets too.
func fluxKeys(groups []string, a slog.Attr) slog.Attr {
	if a.Key == "body" {
		return slog.Attr{}
	}
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

// TakeOverLogs sends what client-go, controller-runtime and the standard logger log for the whole process to w, in the
// agent's format. It is for a process that is nothing but the agent, and is called before anything else runs.
func TakeOverLogs(w io.Writer) {
	logger := newLogger(w, "info", "json")
	klog.SetSlogLogger(logger.With("logger", "client-go"))
	ctrl.SetLogger(logr.FromSlogHandler(logger.Handler()))
	log.SetFlags(0)
	log.SetOutput(survivor{logger})
}

// survivor takes what is written by the standard logger. The kustomize library ends the process with log.Fatal where it meets
// what it did not expect, and what it meets is a tenant's: the panic that takes its place ends that build alone.
type survivor struct{ logger *slog.Logger }

func (s survivor) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	callers := make([]uintptr, 8)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	for more := true; more; {
		var frame runtime.Frame
		if frame, more = frames.Next(); strings.HasPrefix(frame.Function, "log.") && strings.Contains(frame.Function, "Fatal") {
			panic("a library would have ended the agent: " + text)
		}
	}
	s.logger.Info("a library has logged", "line", text)
	return len(line), nil
}
