package api

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// management is gantry.v1.Management.
type management struct {
	gantryv1.UnsafeManagementServer // an RPC without a method must not compile

	broker  *broker.Broker
	log     *slog.Logger
	options Options
	began   time.Time
}

func newManagement(b *broker.Broker, log *slog.Logger, o Options) *management {
	return &management{broker: b, log: log, options: o, began: time.Now()}
}

func (m *management) ServerInfo(context.Context, *gantryv1.ServerInfoRequest) (*gantryv1.ServerInfoResponse, error) {
	info := &gantryv1.ServerInfoResponse{
		Name:          m.broker.Name(),
		Version:       m.options.Version,
		Commit:        m.options.Commit,
		Uptime:        durationpb.New(time.Since(m.began)),
		DataDir:       m.options.DataDir,
		Durability:    m.options.Durability,
		FormatVersion: m.options.FormatVersion,
		Auth:          m.options.Auth != nil,
	}
	if m.options.Advertise != "" {
		info.AdvertisedEndpoints = []string{m.options.Advertise}
	}
	info.Shard, info.Shards = ownShard(m.options.Shards)
	return info, nil
}

// compare orders resources as lists show them: by namespace, then name.
func compare(a, b record.Resource) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
