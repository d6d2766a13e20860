package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/broker/replica/stable"
	"github.com/gantry-mq/gantry/commitlog"
)

// repairable is a cluster of nodes that can repair themselves, with something in their
// logs, and which have all written down whom they know.
func repairable(t *testing.T, count int) (all []*server) {
	t.Helper()
	for _, name := range []string{"n1", "n2", "n3"}[:count] {
		s := newServer(t, name, nil).stored()
		s.opts.Store.SetAside = func(directory string) (string, error) {
			to := filepath.Join(s.dir, "damaged", directory)
			err := os.MkdirAll(to, 0o700)
			if err == nil {
				err = os.Rename(filepath.Join(s.dir, "commitlog"), filepath.Join(to, "commitlog"))
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return to, err
		}
		if len(all) == 0 {
			s.bootstrap()
		} else {
			s.join(all[0])
		}
		all = append(all, s)
	}
	voters(t, all...)
	eventually(t, "100 records", func() bool { return leader(t, all...).append(100) == nil })
	equal(t, 100, all...)
	for _, s := range all {
		eventually(t, "the others known", func() bool {
			k, err := readKnown(s.opts.Dir, peersFile)
			return err == nil && k.Node == s.node.parts.id && k.voters() == count-1
		})
	}
	return all
}

// flip changes a bit of a file at each of the places.
func flip(t *testing.T, name string, places ...int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range places {
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 4
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
}

// segment is the first file of a server's log.
func (s *server) firstSegment() string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "commitlog", "*.log"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("%q, %v", files, err)
	}
	return slices.Min(files)
}

// repaired opens a server that is damaged, and checks that it is another node, has
// what the others have, and keeps what it had.
func repaired(t *testing.T, s *server, all []*server, old string) {
	t.Helper()
	s.must(s.open(t.Context()))
	voters(t, all...)
	equal(t, 100, all...)
	if s.node.parts.id == old {
		t.Error("it votes under its old identity")
	}
	if _, err := readKnown(s.opts.Dir, repairFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the note: %v", err)
	}
	_, directory := peer.SplitID(old)
	kept, err := os.ReadDir(filepath.Join(s.dir, "damaged", directory, "commitlog"))
	if err != nil || len(kept) == 0 {
		t.Errorf("kept: %v, %v", kept, err)
	}
	eventually(t, "an append", func() bool { return leader(t, all...).append(1) == nil })
	equal(t, 101, all...)
}

func TestADamagedNodeComesBackAsANewOneWithTheLogOfTheOthers(t *testing.T) {
	for what, damage := range map[string]func(*server){
		"log":      func(s *server) { flip(t, s.firstSegment(), 5000) },
		"lost log": func(s *server) { os.RemoveAll(filepath.Join(s.dir, "commitlog")) },
		"vote":     func(s *server) { flip(t, filepath.Join(s.opts.Dir, voteFile), 20, 4096+20) },
		"no vote":  func(s *server) { os.Remove(filepath.Join(s.opts.Dir, voteFile)) },
		"identity": func(s *server) { flip(t, filepath.Join(s.opts.Dir, identityFile), 20) },
		"first node, which may still be told to bootstrap": func(s *server) { flip(t, s.firstSegment(), 5000) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			all := repairable(t, 3)
			s := all[2]
			if len(what) > 10 {
				s = all[0]
			}
			old := s.node.parts.id
			s.close()
			damage(s)
			if what == "identity" {
				if yes, err := Exists(s.opts.Dir); !yes || err != nil {
					t.Errorf("a member of a cluster: %v, %v", yes, err)
				}
			}
			repaired(t, s, all, old)
			s.close()
			s.must(s.open(t.Context())) // the second start is an ordinary one
			voters(t, all...)
		})
	}
}

// Damage that is found while a node is at work, in what only few will read, is worth no
// outage.
func TestANodeLeavesToBeRepairedWhenTheOthersCanDoWithoutIt(t *testing.T) {
	t.Parallel()
	damage := fmt.Errorf("a test: %w", commitlog.ErrCorrupt)
	for _, leads := range []bool{true, false} {
		t.Run(fmt.Sprint("leader ", leads), func(t *testing.T) {
			t.Parallel()
			all := repairable(t, 3)
			l := leader(t, all...)
			s := all[0]
			if s == l != leads {
				s = all[1]
			}
			if leads {
				s = l
			}
			others := slices.DeleteFunc(slices.Clone(all), func(o *server) bool { return o == s })
			others[0].close()
			if err := s.node.Leave(t.Context(), damage); err == nil {
				t.Fatal("it left two, of which one is down")
			}
			if _, err := readKnown(s.opts.Dir, repairFile); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the note: %v", err)
			}
			s.must(others[0].open(t.Context()))
			voters(t, all...)
			old := s.node.parts.id
			eventually(t, "it has left", func() bool { return s.node.Leave(t.Context(), damage) == nil })
			// The next one has to wait until it is back.
			if err := others[0].node.Leave(t.Context(), damage); err == nil {
				t.Error("two left")
			}
			if _, err := readKnown(others[0].opts.Dir, repairFile); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the note of the next: %v", err)
			}
			s.close()
			repaired(t, s, all, old)
		})
	}
}

// A node that is killed within its repair goes on, whatever it has done already.
func TestARepairGoesOnWhereTheNodeWasKilled(t *testing.T) {
	steps := []func(o *Options, id string) error{
		func(o *Options, id string) error { return noteRepair(o, errors.New("a test")) },
		func(o *Options, id string) error {
			k, err := readKnown(o.Dir, repairFile)
			o.Join, o.cluster = k.addresses(), k.Cluster
			return errors.Join(err, leave(context.Background(), o, id))
		},
		func(o *Options, id string) error {
			_, directory := peer.SplitID(id)
			_, err := o.Store.SetAside(directory)
			return err
		},
		setAside,
		func(o *Options, id string) error {
			return identity{name: o.Name, directory: newNumber()}.write(o.Dir)
		},
		func(o *Options, id string) error { // joined, which is not written down
			i, err := readIdentity(o.Dir)
			p := parts{id: i.id()}
			err = errors.Join(err, p.listen(o, 0, o.Logger))
			_, asked := p.persuade(context.Background(), o.Join, question{Ask: askJoin, Node: i.id(), Address: p.address, Segment: 64 << 10}, o.Timing.Heartbeat, o.Logger)
			return errors.Join(err, asked, p.close())
		},
	}
	for killed := 1; killed <= len(steps); killed++ {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			all := repairable(t, 3)
			s := all[1]
			old := s.node.parts.id
			s.close()
			o := s.opts
			o.Log = nil
			for i, step := range steps[:killed] {
				if err := step(&o, old); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			if yes, err := Exists(s.opts.Dir); !yes || err != nil {
				t.Errorf("a member of a cluster: %v, %v", yes, err)
			}
			if killed%2 == 0 { // what its command line says means nothing
				s.opts.Join, s.opts.Bootstrap = "", true
			}
			repaired(t, s, all, old)
		})
	}
	t.Run("a member again, with its note", func(t *testing.T) {
		t.Parallel()
		all := repairable(t, 3)
		s := all[2]
		id := s.node.parts.id
		s.close()
		if err := (known{Node: peer.NewID("n3", 1), Reason: "a test"}).write(s.opts.Dir, repairFile); err != nil {
			t.Fatal(err)
		}
		s.must(s.open(t.Context()))
		voters(t, all...)
		if _, err := readKnown(s.opts.Dir, repairFile); !errors.Is(err, fs.ErrNotExist) || s.node.parts.id != id {
			t.Errorf("%s, was %s; %v", s.node.parts.id, id, err)
		}
	})
}

func TestADamagedNodeStaysAsItIsWhenItMayNotRepairItself(t *testing.T) {
	for what, count := range map[string]int{"of two": 2, "told not to": 3} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			all := repairable(t, count)
			s := all[1]
			old := s.node.parts.id
			s.opts.NoRepair = count == 3
			s.close()
			flip(t, filepath.Join(s.opts.Dir, voteFile), 20, 4096+20)
			for range 2 {
				if err := s.open(t.Context()); !errors.Is(err, stable.ErrCorrupt) || count == 2 && !errors.Is(err, errTooFew) {
					t.Errorf("%v", err)
				}
			}
			if i, err := readIdentity(s.opts.Dir); err != nil || i.id() != old {
				t.Errorf("%+v, %v", i, err)
			}
			if _, err := os.Stat(filepath.Join(s.dir, "damaged")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("set aside: %v", err)
			}
		})
	}
}

// What a node finds damaged while it runs, its next start repairs.
func TestADivergedNodeIsRepairedAtItsNextStart(t *testing.T) {
	t.Parallel()
	all := repairable(t, 3)
	s := all[2]
	old := s.node.parts.id
	s.node.Damaged(commitlog.ErrDiskFull)
	if _, err := readKnown(s.opts.Dir, repairFile); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a full disk is damage: %v", err)
	}
	ended := make(chan error, 1)
	s.node.opts.Fatal = func(err error) { ended <- err }
	s.node.fatal(ErrDiverged)
	<-ended
	s.close()
	repaired(t, s, all, old)
}

func TestWhomANodeKnowsIsReadAsItWasWritten(t *testing.T) {
	want := known{Node: peer.NewID("n1", 7), Cluster: 1 << 63, Others: []other{{"127.0.0.1:1", true}, {"h:2", false}}, Reason: "why"}
	b, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeKnown(b); err != nil || !got.equal(want) || got.Reason != want.Reason || got.voters() != 1 || got.addresses() != "127.0.0.1:1,h:2" {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range b {
		b[i] ^= 1
		if got, err := decodeKnown(b); err == nil {
			t.Errorf("byte %d changed: %+v", i, got)
		}
		b[i] ^= 1
		if got, err := decodeKnown(b[:i]); err == nil {
			t.Errorf("%d bytes of it are read: %+v", i, got)
		}
	}
}
