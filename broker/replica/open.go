package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/broker/replica/stable"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// voteFile is raft's stable store, beside the identity and the folder "snapshots".
const (
	voteFile    = "vote"
	snapshotDir = "snapshots" // raft's name for it
)

// Open lets the node take part in its cluster. One that is to join waits until it
// is a member or ctx ends; afterwards ctx means nothing. Among the errors are
// ErrNoMember, for a directory of no node and options that make it none,
// ErrNameTaken, ErrTrimmed, ErrSegmentSize, and, of a node that is damaged and does not
// repair itself, ErrDamaged, stable.ErrCorrupt and commitlog.ErrCorrupt. A repair waits
// for the cluster as a join does.
func Open(ctx context.Context, opts Options) (*Node, error) {
	opts.setDefaults()
	if opts.Bootstrap && opts.Join != "" {
		return nil, errors.New("replica: a node is the first of a cluster or joins one, not both")
	}
	if err := mmapfile.OS.MkdirAll(opts.Dir); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	for {
		if err := repair(ctx, &opts); err != nil {
			return nil, err
		}
		n, err := open(ctx, opts)
		if err == nil || !damaged(err) {
			return n, err
		}
		opts.Logger.Error("this node is damaged", logging.Component, "replica", "error", err)
		if no := noteRepair(&opts, err); no != nil {
			return nil, errors.Join(err, no)
		}
	}
}

// open is Open without a repair.
func open(ctx context.Context, opts Options) (*Node, error) {
	own, err := ownIdentity(&opts)
	if err != nil {
		return nil, err
	}
	p := parts{id: own.id()}
	given := opts.Log
	n, err := p.open(ctx, &opts, own)
	if err != nil {
		err = errors.Join(err, p.close())
		if opts.Log != given && opts.Log != nil {
			err = errors.Join(err, opts.Log.Close())
		}
		return nil, err
	}
	return n, nil
}

// openLog has the log open.
func (o *Options) openLog() (err error) {
	if o.Log == nil {
		o.Log, err = o.Store.OpenLog()
	}
	return err
}

func (p *parts) open(ctx context.Context, opts *Options, own identity) (*Node, error) {
	var err error
	logger := opts.Logger.With("node", p.id, logging.Component, "replica")
	if err := p.listen(opts, own.cluster, logger); err != nil {
		return nil, err
	}
	if !own.member {
		// It is asked for under this identity, so that must be there again after a crash.
		if err := own.write(opts.Dir); err != nil {
			return nil, err
		}
	}
	var fetched *note
	if !own.member && opts.Join != "" {
		if own.cluster, fetched, err = p.enter(ctx, opts, logger); err != nil {
			return nil, err
		}
		p.endpoint.SetCluster(own.cluster)
	} else if err := opts.openLog(); err != nil {
		return nil, err
	}
	k, err := readKnown(opts.Dir, peersFile)
	known := err == nil && k.Node == p.id
	if known && opts.Log.LastIndex() == 0 {
		// Its vote stands for a log that is not there.
		return nil, fmt.Errorf("%w: it has known others by its log, which is empty", ErrDamaged)
	}
	p.cluster = own.cluster
	vote := filepath.Join(opts.Dir, voteFile)
	store, err := stable.Open(mmapfile.OS, vote, logger)
	if errors.Is(err, fs.ErrNotExist) && !own.member {
		store, err = stable.Create(mmapfile.OS, vote)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: its vote is lost: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	p.stable = store
	if p.snapshots, err = openSnapshots(opts, p.id); err != nil {
		return nil, err
	}
	p.transport = p.endpoint.NewTransport(0, raftLogger(opts.Logger, p.id))
	if own.member && known {
		if err := p.remembers(opts.Log, k); err != nil {
			return nil, err
		}
	}
	if !own.member {
		if opts.Bootstrap {
			if err := p.bootstrap(opts.Log); err != nil {
				return nil, err
			}
		}
		if fetched != nil {
			if err := p.begin(opts.Log, fetched.Membership); err != nil {
				return nil, err
			}
		}
		own.member = true
		if err := own.write(opts.Dir); err != nil {
			return nil, err
		}
	}
	for _, file := range []string{noteFile, repairFile} {
		if err := removeFile(opts.Dir, file); err != nil {
			return nil, err
		}
	}
	return start(*opts, *p)
}

// listen makes the node's endpoint.
func (p *parts) listen(opts *Options, cluster uint64, logger *slog.Logger) error {
	var err error
	p.endpoint, err = peer.Listen(opts.Listen, peer.Config{
		Node: p.id, Cluster: cluster, Identity: opts.Certificates, Advertise: opts.Advertise, Client: opts.Client, Logger: logger,
	})
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	if err := checkAddress(p.endpoint.Address()); err != nil {
		return err
	}
	p.address = p.endpoint.Address().String()
	p.consult = func(ctx context.Context, id, address string, q question) (answer, error) {
		return consult(ctx, p.endpoint, id, address, q)
	}
	return nil
}

// close gives back what was opened so far.
func (p *parts) close() (err error) {
	if p.transport != nil {
		err = p.transport.(raft.WithClose).Close()
	}
	if p.endpoint != nil {
		err = errors.Join(err, p.endpoint.Close())
	}
	if c, ok := p.stable.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return err
}

// checkAddress reports what is wrong with where a node says it is.
func checkAddress(a peer.Address) error {
	for _, s := range []string{a.Peer, a.Client} {
		host, _, err := net.SplitHostPort(s)
		if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() || strings.ContainsAny(s, ",@") {
			return fmt.Errorf("replica: address %q: want host:port that others can reach", s)
		}
	}
	return nil
}
