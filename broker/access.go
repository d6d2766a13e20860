package broker

import (
	"context"
	"net/netip"
	"slices"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Access is the table of users and policies, to look at.
func (b *Broker) Access() *access.Table { return b.access }

// CreateUser makes a user with a secret.
func (b *Broker) CreateUser(ctx context.Context, u access.User, secret string) (access.User, error) {
	if err := access.CheckUserName(u.Name); err != nil {
		return access.User{}, Errorf(BadRequest, "%w", err)
	}
	err := b.changeTables(ctx, func() ([]byte, error) {
		users := b.access.Users()
		switch _, ok := b.access.User(u.Name); {
		case ok:
			return nil, Errorf(AlreadyExists, "the user %q exists", u.Name)
		case len(users) >= MaxUsers:
			return nil, Errorf(TooManyRequests, "there are %d users, which is the limit", len(users))
		}
		u.Created = b.now()
		if err := b.seal(&u, secret); err != nil {
			return nil, err
		}
		return access.AppendUserPut(nil, u), nil
	})
	return u, err
}

func (b *Broker) seal(u *access.User, secret string) error {
	if err := access.CheckSecret(secret); err != nil {
		return Errorf(BadRequest, "%w", err)
	}
	key := b.access.Key()
	if key == nil {
		return Errorf(PreconditionFailed, "the broker runs without --auth: it has no key to seal secrets with")
	}
	u.Sealed, u.Changed = key.Seal(u.Name, secret), b.now()
	return nil
}

// ResealUsers seals every secret under the master key that comes first, and returns of
// how many users that was another one. The secrets are the same, so nobody has to sign in again.
func (b *Broker) ResealUsers(ctx context.Context) (resealed int, err error) {
	key := b.access.Key()
	if key == nil {
		return 0, Errorf(PreconditionFailed, "the broker runs without --auth: it has no key to seal secrets with")
	}
	for _, u := range b.access.Users() {
		err := b.changeTables(ctx, func() ([]byte, error) {
			u, ok := b.access.User(u.Name)
			if !ok || key.Sealed(u.Sealed) {
				return nil, nil
			}
			secret, err := key.Open(u.Name, u.Sealed)
			if err != nil {
				return nil, Errorf(PreconditionFailed, "the secret of user %q: %w", u.Name, err)
			}
			u.Sealed = key.Seal(u.Name, secret)
			resealed++
			return access.AppendUserPut(nil, u), nil
		})
		if err != nil {
			return resealed, err
		}
	}
	return resealed, nil
}

// UserChange says what to change of a user. What is nil stays.
type UserChange struct {
	Super   *bool
	Enabled *bool
	Secret  *string
}

// UpdateUser changes a user. The last super user that can call stays one.
func (b *Broker) UpdateUser(ctx context.Context, name string, c UserChange) (u access.User, err error) {
	err = b.changeTables(ctx, func() ([]byte, error) {
		old, ok := b.access.User(name)
		if !ok {
			return nil, userNotFound(name)
		}
		u = old
		set(&u.Super, c.Super)
		set(&u.Enabled, c.Enabled)
		if c.Secret != nil {
			if err := b.seal(&u, *c.Secret); err != nil {
				return nil, err
			}
		}
		if !(u.Super && u.Enabled) {
			if err := b.checkLastSuper(name); err != nil {
				return nil, err
			}
		}
		return access.AppendUserPut(nil, u), nil
	})
	return u, err
}

// DeleteUser deletes a user with all its policies.
func (b *Broker) DeleteUser(ctx context.Context, name string) error {
	return b.changeTables(ctx, func() ([]byte, error) {
		if _, ok := b.access.User(name); !ok {
			return nil, userNotFound(name)
		}
		if err := b.checkLastSuper(name); err != nil {
			return nil, err
		}
		return access.AppendUserDelete(nil, name), nil
	})
}

// checkLastSuper refuses to lock everybody out.
func (b *Broker) checkLastSuper(name string) error {
	last := false
	for _, u := range b.access.Users() {
		if u.Super && u.Enabled {
			if u.Name != name {
				return nil
			}
			last = true
		}
	}
	if last {
		return Errorf(PreconditionFailed, "%q is the last super user that is enabled: nobody could manage users any more", name)
	}
	return nil
}

func userNotFound(name string) error {
	return Errorf(UserNotFound, "the user %q does not exist", clip(name))
}

// Grant adds a policy. When the user has one that differs in its actions only, that
// one gets the new actions too.
func (b *Broker) Grant(ctx context.Context, p access.Policy) (access.Policy, error) {
	if err := checkPolicy(&p); err != nil {
		return access.Policy{}, err
	}
	err := b.changeTables(ctx, func() ([]byte, error) {
		if _, ok := b.access.User(p.User); !ok {
			return nil, userNotFound(p.User)
		}
		p.ID, p.Created = b.access.NextID(), b.now()
		policies := b.access.Policies(p.User)
		for _, old := range policies {
			if old.Resource == p.Resource && old.Deny == p.Deny && slices.Equal(old.Sources, p.Sources) {
				if old.Actions|p.Actions == old.Actions {
					p = old
					return nil, nil
				}
				p.ID, p.Created, p.Actions = old.ID, old.Created, old.Actions|p.Actions
				return access.AppendPolicyPut(nil, p), nil
			}
		}
		if len(policies) >= MaxPolicies {
			return nil, Errorf(TooManyRequests, "the user %q has %d policies, which is the limit", p.User, len(policies))
		}
		return access.AppendPolicyPut(nil, p), nil
	})
	return p, err
}

// checkPolicy checks a policy and gives it its one form.
func checkPolicy(p *access.Policy) error {
	r := &p.Resource
	named := r.Match == access.Literal || r.Match == access.Prefix
	switch r.Type {
	case access.Any, access.Cluster:
		r.Match, named = access.Whichever, false
		r.Namespace, r.Name = "", ""
	case access.Namespace:
		if err := checkNamespace(record.Resource{Namespace: r.Name}); named && err != nil {
			return err
		}
		r.Namespace = ""
	case access.Topic, access.Group:
		if named && (len(r.Name) > max(MaxTopicLen, MaxGroupLen) || badName(r.Name)) {
			return Errorf(BadRequest, "the name %q has characters outside [%%|a-zA-Z0-9_-], or too many", clip(r.Name))
		}
		if err := checkNamespace(record.Resource{Namespace: r.Namespace}); err != nil && r.Namespace != access.AllNamespaces {
			return err
		}
	default:
		return Errorf(BadRequest, "the resource type %d is unknown", r.Type)
	}
	switch {
	case !named && r.Match != access.Whichever:
		return Errorf(BadRequest, "the match %d is unknown", r.Match)
	case p.Actions == 0 || p.Actions&^access.All != 0:
		return Errorf(BadRequest, "the policy names no action, or one that is unknown")
	case len(p.Sources) > access.MaxSources:
		return Errorf(BadRequest, "%d source networks, the limit is %d", len(p.Sources), access.MaxSources)
	}
	if !named {
		r.Name = ""
	}
	for i, s := range p.Sources {
		if !s.IsValid() || s.Addr().Is4In6() {
			return Errorf(BadRequest, "a source network is not valid")
		}
		p.Sources[i] = s.Masked()
	}
	slices.SortFunc(p.Sources, netip.Prefix.Compare)
	p.Sources = slices.Compact(p.Sources)
	return nil
}

// Revoke deletes a policy, and returns it.
func (b *Broker) Revoke(ctx context.Context, id uint64) (p access.Policy, err error) {
	err = b.changeTables(ctx, func() ([]byte, error) {
		var ok bool
		if p, ok = b.access.Policy(id); !ok {
			return nil, Errorf(PolicyNotFound, "there is no policy %d", id)
		}
		return access.AppendPolicyDelete(nil, id), nil
	})
	return p, err
}
