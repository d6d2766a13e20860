package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/broker/replica/stable"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Repair: a node whose files are damaged, or whose log differs from the others', has
// promised what it cannot read any more. So it does not mend them: it leaves, and comes
// back as a new node with the same name.
//
//	note "repair"               from here on nothing of it runs under its old ID
//	leaves                      the leader takes the old ID out
//	sets aside                  all its files are moved to another directory, and kept
//	new identity                THE step: an ID that is not the note's says that the others are done
//	joins, fetches the log      as any new node does, in the note's cluster and no other
//	member                      identity says so, then the note goes
//
// Each step may be taken again, so a node that is killed goes on where it was.

// repairFile is the note: see known.
const repairFile = "repair"

// ErrDamaged: a file of the node that it cannot do without is missing or not as it
// was written.
var ErrDamaged = errors.New("replica: damaged")

// damaged reports whether an error is one that a repair ends. What a later build has
// written is no damage.
func damaged(err error) bool {
	return errors.Is(err, commitlog.ErrCorrupt) && !errors.Is(err, commitlog.ErrVersion) ||
		errors.Is(err, stable.ErrCorrupt) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrDiverged)
}

// noteRepair has the next start repair the node, or says why it cannot.
func noteRepair(opts *Options, cause error) error {
	if opts.NoRepair || opts.Store == nil {
		return errors.New("replica: it is not to repair itself")
	}
	_, err := readKnown(opts.Dir, repairFile)
	switch {
	case err == nil:
		return errors.New("replica: it was about to be repaired already")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	k, err := readKnown(opts.Dir, peersFile)
	if err != nil {
		return fmt.Errorf("replica: it knows nobody to repair itself from: %w", err)
	}
	if own, err := readIdentity(opts.Dir); err == nil && own.id() != k.Node {
		return fmt.Errorf("replica: %s is of node %s, not of %s", filepath.Join(opts.Dir, peersFile), k.Node, own.id())
	}
	if k.voters()+1 < minRepair {
		return errTooFew
	}
	k.Reason = cause.Error()
	return k.write(opts.Dir, repairFile)
}

// Leave begins a repair while the node runs and serves: damage says why. That has to wait
// until the others can do without it: all that count answer and have the log. The node
// hands the leadership over, notes the repair and is taken out. nil: it has to end, and
// its next start goes on. Otherwise it stays as it is, and may try again.
func (n *Node) Leave(ctx context.Context, damage error) error {
	if _, ok := n.Leader(); !ok {
		return ErrNoLeader
	}
	for _, m := range n.Status(ctx) {
		if m.Voter && m.ID != n.parts.id && (m.Err != nil || m.Lag > caughtUp) {
			return fmt.Errorf("replica: %s is needed as long as %s does not answer or lacks something", peer.NameOf(n.parts.id), m.Name)
		}
	}
	if n.raft.State() == raft.Leader {
		if err := n.Transfer(ctx, ""); err != nil {
			return err
		}
	}
	if err := noteRepair(&n.opts, damage); err != nil {
		return err
	}
	// It must not end before it is out: if another one left then, neither could come back.
	for {
		a, err := n.put(ctx, question{Ask: askLeave, Node: n.parts.id, Cluster: n.parts.cluster})
		if err == nil && a.Verdict == tooFew { // another was faster
			return errors.Join(errTooFew, removeFile(n.opts.Dir, repairFile))
		}
		if err == nil {
			err = a.err(n.parts.id)
		}
		if err == nil || ctx.Err() != nil {
			n.log.Error("this node repairs itself at its next start", "reason", damage)
			return nil
		}
		select {
		case <-time.After(n.opts.Timing.Heartbeat / 2):
		case <-ctx.Done():
		}
	}
}

// Damaged notes that this node cannot trust what it has, if err says so: its next start
// repairs it. The node has to end then.
func (n *Node) Damaged(err error) {
	if !damaged(err) {
		return
	}
	if no := noteRepair(&n.opts, err); no != nil {
		n.log.Error("this node does not repair itself", "reason", no)
		return
	}
	n.log.Error("this node repairs itself at its next start")
}

// repair takes a noted repair up to where the node joins, and has the options say so.
func repair(ctx context.Context, opts *Options) error {
	k, err := readKnown(opts.Dir, repairFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if name := peer.NameOf(k.Node); name != opts.Name {
		return fmt.Errorf("replica: %s is the directory of node %q, not of %q", opts.Dir, name, opts.Name)
	}
	own, err := readIdentity(opts.Dir)
	fresh := err == nil && own.id() != k.Node
	if fresh && own.member {
		return removeFile(opts.Dir, repairFile)
	}
	addresses := k.addresses()
	if opts.Join != "" {
		addresses += "," + opts.Join
	}
	opts.Bootstrap, opts.Join, opts.cluster = false, addresses, k.Cluster
	if fresh {
		return nil
	}
	logger := opts.Logger.With("node", k.Node, logging.Component, "replica")
	logger.Warn("this node is damaged and comes back as a new one", "reason", k.Reason, "asks", addresses)
	if err := leave(ctx, opts, k.Node); err != nil {
		return err
	}
	if err := setAside(opts, k.Node); err != nil {
		return err
	}
	return identity{name: opts.Name, directory: newNumber()}.write(opts.Dir)
}

// leave has the cluster take a node out.
func leave(ctx context.Context, opts *Options, id string) (err error) {
	p := parts{id: id}
	logger := opts.Logger.With("node", id, logging.Component, "replica")
	if err := p.listen(opts, 0, logger); err != nil {
		return errors.Join(err, p.close())
	}
	_, err = p.persuade(ctx, opts.Join, question{Ask: askLeave, Node: id, Cluster: opts.cluster}, opts.Timing.Heartbeat/2, logger)
	return errors.Join(err, p.close())
}

// setAside moves all that the node has, but for the note, out of the way.
func setAside(opts *Options, id string) error {
	_, directory := peer.SplitID(id)
	aside, err := opts.Store.SetAside(directory)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	to := filepath.Join(aside, filepath.Base(opts.Dir))
	if err := mmapfile.MoveAll(mmapfile.OS, opts.Dir, to, voteFile, snapshotDir, noteFile, peersFile); err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	opts.Logger.Warn("the damaged files of this node were set aside, and are kept there", "node", id, "directory", aside)
	return nil
}
