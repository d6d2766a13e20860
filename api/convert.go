package api

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func resource(r *v2.Resource) record.Resource {
	return record.Resource{Namespace: r.GetResourceNamespace(), Name: r.GetName()}
}

func wireResource(r record.Resource) *v2.Resource {
	return &v2.Resource{ResourceNamespace: r.Namespace, Name: r.Name}
}

// unixMilli saturates, see timespan.
func unixMilli(t *timestamppb.Timestamp) int64 {
	return (&timespan{seconds: t.GetSeconds(), nanos: t.GetNanos()}).unixMilli()
}

func ptr[T any](v T) *T { return &v }
