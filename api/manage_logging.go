package api

import (
	"context"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/internal/logging"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// logLevels is gantry.v1.Logging.
type logLevels struct {
	gantryv1.UnsafeLoggingServer // an RPC without a method must not compile

	levels *logging.Levels // nil: nobody made any
}

var errNoLevels = status.Error(codes.FailedPrecondition, "this server's log has no levels that can be changed")

// slogLevels numbers slog's levels as the wire does.
var slogLevels = map[gantryv1.LogLevel]slog.Level{
	gantryv1.LogLevel_LOG_LEVEL_DEBUG: slog.LevelDebug,
	gantryv1.LogLevel_LOG_LEVEL_INFO:  slog.LevelInfo,
	gantryv1.LogLevel_LOG_LEVEL_WARN:  slog.LevelWarn,
	gantryv1.LogLevel_LOG_LEVEL_ERROR: slog.LevelError,
}

func (s *logLevels) ListLevels(context.Context, *gantryv1.ListLevelsRequest) (*gantryv1.ListLevelsResponse, error) {
	if s.levels == nil {
		return nil, errNoLevels
	}
	resp := &gantryv1.ListLevelsResponse{}
	for _, l := range s.levels.List() {
		w := &gantryv1.ComponentLevel{Component: l.Component, Own: l.Own}
		for wire, level := range slogLevels {
			if level == l.Level {
				w.Level = wire
			}
		}
		resp.Levels = append(resp.Levels, w)
	}
	return resp, nil
}

func (s *logLevels) SetLevel(_ context.Context, req *gantryv1.SetLevelRequest) (*gantryv1.SetLevelResponse, error) {
	level, ok := slogLevels[req.GetLevel()]
	switch {
	case s.levels == nil:
		return nil, errNoLevels
	case !ok:
		return nil, status.Errorf(codes.InvalidArgument, "the log level %d is unknown", req.GetLevel())
	}
	if err := s.levels.Set(req.GetComponent(), level); err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return &gantryv1.SetLevelResponse{}, nil
}
