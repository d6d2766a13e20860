package broker

import (
	"context"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Quotas is the table of quotas, to look at.
func (b *Broker) Quotas() *quota.Table { return b.quotas }

// SetQuota changes some limits of a subject: those that are not nil. It returns the quota
// as it is from now on, which is at once, for streams that are open too.
func (b *Broker) SetQuota(ctx context.Context, s quota.Subject, change [len(quota.Limits{})]*uint64) (quota.Quota, error) {
	q := quota.Quota{Subject: s}
	if err := checkSubject(s); err != nil {
		return q, err
	}
	err := b.changeTables(ctx, func() ([]byte, error) {
		old, ok := b.quotas.Of(s)
		q.Limits = old
		for i, to := range change {
			set(&q.Limits[i], to)
			if q.Limits[i] > quota.MaxLimit {
				return nil, Errorf(BadRequest, "%s is %d, the limit is %d", quota.Names[i], q.Limits[i], uint64(quota.MaxLimit))
			}
		}
		switch {
		case q.Limits == quota.Limits{}:
			return nil, Errorf(BadRequest, "the quota of %v would bound nothing: set a limit, or delete the quota", s)
		case q.Limits[quota.InFlight] > 0 && s.Kind != quota.Group:
			return nil, Errorf(BadRequest, "messages are in flight for a group: the quota of a %v does not bound them", s.Kind)
		case s.Kind == quota.Group && q.Limits[quota.SendMessages]+q.Limits[quota.SendBytes] > 0:
			return nil, Errorf(BadRequest, "a group sends nothing: its quota bounds what is received")
		case !ok && len(b.quotas.List()) >= MaxQuotas:
			return nil, Errorf(TooManyRequests, "there are %d quotas, which is the limit", MaxQuotas)
		case ok && q.Limits == old:
			return nil, nil
		}
		return quota.AppendPut(nil, q), nil
	})
	return q, err
}

// UnsetQuota takes a subject's quota away, and returns what it was.
func (b *Broker) UnsetQuota(ctx context.Context, s quota.Subject) (quota.Quota, error) {
	q := quota.Quota{Subject: s}
	err := b.changeTables(ctx, func() ([]byte, error) {
		var ok bool
		if q.Limits, ok = b.quotas.Of(s); !ok {
			return nil, Errorf(QuotaNotFound, "there is no quota of %v", s)
		}
		return quota.AppendDelete(nil, s), nil
	})
	return q, err
}

// checkSubject refuses what can never be met. What a quota is of need not be there yet.
func checkSubject(s quota.Subject) error {
	if s.Kind < quota.Topic || s.Kind >= quota.Kinds {
		return Errorf(BadRequest, "the kind %d of quota is unknown", s.Kind)
	}
	if s.Namespace != "" && s.Kind != quota.Topic && s.Kind != quota.Group {
		return Errorf(BadRequest, "a %v is in no namespace", s.Kind)
	}
	if s.Name == quota.Each {
		return checkNamespace(s.Resource)
	}
	switch s.Kind {
	case quota.Topic:
		return checkTopicName(s.Resource)
	case quota.Group:
		return checkGroupName(s.Resource)
	case quota.Client:
		if s.Name == "" || len(s.Name) > MaxClientID {
			return Errorf(BadRequest, "a client id has 1 to %d bytes", MaxClientID)
		}
	case quota.User:
		if err := access.CheckUserName(s.Name); err != nil {
			return Errorf(BadRequest, "%w", err)
		}
	case quota.Namespace:
		return checkNamespace(record.Resource{Namespace: s.Name})
	}
	return nil
}
