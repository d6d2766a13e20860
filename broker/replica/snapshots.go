package replica

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/internal/logging"
)

// A snapshot is the membership as of an entry and nothing else. raft keeps the newest
// two, each in a directory of its own:
//
//	snapshots/<term>-<index>-<ms>/meta.json   the snapshot; raft's
//	snapshots/<term>-<index>-<ms>/state.bin   JSON of remembered: the same once more
//
// raft puts the checksum of state.bin into meta.json, and none of meta.json anywhere:
// of another bit in the index it would hear nothing. So the two have to agree. In
// snapshots of before that, state.bin is empty, and meta.json is taken as it is.
type remembered struct {
	Version            raft.SnapshotVersion
	Index, Term        uint64
	Configuration      raft.Configuration
	ConfigurationIndex uint64
}

// snapshots writes them so that they can be verified.
type snapshots struct{ raft.SnapshotStore }

func (s snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, t raft.Transport) (raft.SnapshotSink, error) {
	state, err := json.Marshal(remembered{version, index, term, c, at})
	if err != nil {
		return nil, err
	}
	sink, err := s.SnapshotStore.Create(version, index, term, c, at, t)
	if err != nil {
		return nil, err
	}
	if _, err := sink.Write(state); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

// openSnapshots opens the snapshots in a node's directory and removes those that are
// damaged or were never finished: the one before, or the log itself, says who the
// members are; start sees to it that one of them does.
func openSnapshots(opts *Options, id string) (raft.SnapshotStore, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(opts.Dir, 2, raftLogger(opts.Logger, id))
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	logger := opts.Logger.With("node", id, logging.Component, "replica")
	if err := removeDamaged(opts.Dir, logger); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return snapshots{files}, nil
}

func removeDamaged(dir string, logger *slog.Logger) error {
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, hclog.NewNullLogger()) // what it finds is said here
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, snapshotDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if !strings.HasSuffix(e.Name(), ".tmp") { // raft's mark of one that is being written
			err := verify(files, e.Name())
			if err == nil {
				continue
			}
			var io *fs.PathError
			if errors.As(err, &io) && !errors.Is(err, fs.ErrNotExist) {
				return err // it may be readable the next time
			}
			logger.Warn("a snapshot of the membership is damaged and removed: an older one, or the log, says who the members are", "snapshot", e.Name(), "error", err)
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// verify checks the snapshot in the directory of that name.
func verify(files raft.SnapshotStore, name string) error {
	meta, r, err := files.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	state, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	want, err := json.Marshal(remembered{meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex})
	switch {
	case err != nil:
		return err
	case meta.ID != name || meta.Size != int64(len(state)):
		return errors.New("meta.json is of another snapshot")
	case len(state) > 0 && !bytes.Equal(state, want):
		return fmt.Errorf("meta.json says %s, state.bin %s", want, state)
	}
	return nil
}
