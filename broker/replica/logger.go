package replica

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"

	"github.com/gantry-mq/gantry/internal/logging"
)

// raftLogger has raft's messages go where ours do. What raft calls information is
// for who debugs it, and its errors are that another node cannot be reached: what a
// node cannot go on after, we say ourselves.
func raftLogger(to *slog.Logger, node string) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Debug, Output: io.Discard})
	l.RegisterSink(sink{to.With("node", node, logging.Component, "raft")})
	return l
}

type sink struct{ to *slog.Logger }

func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Warn, hclog.Error:
		to = slog.LevelWarn
	}
	s.to.Log(context.Background(), to, "raft: "+msg, args...)
}
