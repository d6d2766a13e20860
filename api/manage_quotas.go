package api

import (
	"context"
	"log/slog"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// quotaOps is gantry.v1.Quotas.
type quotaOps struct {
	gantryv1.UnsafeQuotasServer // an RPC without a method must not compile

	broker *broker.Broker
	log    *slog.Logger
}

func (s *quotaOps) Set(ctx context.Context, req *gantryv1.SetQuotaRequest) (*gantryv1.SetQuotaResponse, error) {
	l := req.GetLimits()
	if l == nil {
		l = &gantryv1.QuotaLimits{}
	}
	q, err := s.broker.SetQuota(ctx, quotaSubject(req.GetSubject()), [...]*uint64{
		quota.SendMessages: l.SendMessages, quota.SendBytes: l.SendBytes,
		quota.ReceiveMessages: l.ReceiveMessages, quota.ReceiveBytes: l.ReceiveBytes, quota.InFlight: l.InFlight,
	})
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.SetQuotaResponse{Quota: wireQuota(q)}, nil
}

func (s *quotaOps) Unset(ctx context.Context, req *gantryv1.UnsetQuotaRequest) (*gantryv1.UnsetQuotaResponse, error) {
	q, err := s.broker.UnsetQuota(ctx, quotaSubject(req.GetSubject()))
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return &gantryv1.UnsetQuotaResponse{Quota: wireQuota(q)}, nil
}

func (s *quotaOps) List(context.Context, *gantryv1.ListQuotasRequest) (*gantryv1.ListQuotasResponse, error) {
	resp := &gantryv1.ListQuotasResponse{}
	for _, q := range s.broker.Quotas().List() {
		resp.Quotas = append(resp.Quotas, wireQuota(q))
	}
	return resp, nil
}

func quotaSubject(s *gantryv1.QuotaSubject) quota.Subject {
	k := s.GetKind()
	if k < 0 || k > gantryv1.QuotaKind_QUOTA_NAMESPACE {
		k = 0 // which the broker refuses
	}
	return quota.Subject{Kind: quota.Kind(k), Resource: record.Resource{Namespace: s.GetNamespace(), Name: s.GetName()}} // numbered alike
}

func wireQuota(q quota.Quota) *gantryv1.Quota {
	limit := func(l quota.Limit) *uint64 {
		if q.Limits[l] == 0 {
			return nil
		}
		return &q.Limits[l]
	}
	return &gantryv1.Quota{
		Subject: &gantryv1.QuotaSubject{Kind: gantryv1.QuotaKind(q.Kind), Namespace: q.Namespace, Name: q.Name},
		Limits: &gantryv1.QuotaLimits{
			SendMessages: limit(quota.SendMessages), SendBytes: limit(quota.SendBytes),
			ReceiveMessages: limit(quota.ReceiveMessages), ReceiveBytes: limit(quota.ReceiveBytes), InFlight: limit(quota.InFlight),
		},
	}
}
