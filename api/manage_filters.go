package api

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// filters is gantry.v1.Filters.
type filters struct {
	gantryv1.UnsafeFiltersServer // an RPC without a method must not compile

	broker *broker.Broker
	log    *slog.Logger
}

func (s *filters) Test(ctx context.Context, req *gantryv1.TestFilterRequest) (*gantryv1.TestFilterResponse, error) {
	kind, expr := broker.FilterTag, req.GetTags()
	if sql, ok := req.GetExpression().(*gantryv1.TestFilterRequest_Sql); ok {
		kind, expr = broker.FilterSQL, sql.Sql
	}
	topic := record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	t, err := s.broker.TestFilter(ctx, topic, kind, expr, cmp.Or(int(req.GetLast()), 1000), int(req.GetExamples()))
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	resp := &gantryv1.TestFilterResponse{Looked: int64(t.Looked), Matched: int64(t.Matched), Unknown: int64(t.Unknown), Failed: int64(t.Failed)}
	for _, x := range t.Examples {
		w := &gantryv1.FilterExample{MessageId: x.ID, Tag: x.Tag, Keys: x.Keys, Queue: x.Queue, Offset: int64(x.Offset), Stored: wireTime(x.Stored)}
		for _, p := range x.User {
			w.Properties = append(w.Properties, &gantryv1.MessageProperty{Key: p.Key, Value: p.Value})
		}
		resp.Examples = append(resp.Examples, w)
	}
	return resp, nil
}
