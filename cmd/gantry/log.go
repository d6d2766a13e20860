package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func newLog() *cobra.Command {
	return parent("log", "Look into a data directory, also while a broker uses it", newLogDump(), newLogCheck())
}

// logDir finds the commit log in what the user named: the data directory or the
// log's own.
func logDir(dir string) (string, error) {
	inside := filepath.Join(dir, "commitlog")
	if info, err := os.Stat(inside); err == nil && info.IsDir() {
		return inside, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*.log")); len(found) == 0 {
		return "", fmt.Errorf("%s is not a data directory: it has no commitlog", dir)
	}
	return dir, nil
}

// segmentOf returns the path and the base of the segment that holds pos. Names
// are bases, so they sort.
func segmentOf(dir string, pos record.Position) (path string, base record.Position) {
	found, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, f := range found {
		n, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(f), ".log"), 10, 64)
		if b := record.Position(n); err == nil && b <= pos {
			path, base = f, b
		}
	}
	return path, base
}

// errEnough ends a walk that has shown what was asked for.
var errEnough = errors.New("enough")

func newLogDump() *cobra.Command {
	var (
		from   uint64
		limit  int
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print the records of the commit log",
		Long: `Print the records of the commit log in DIR, a data directory, one line each, in
order. It reads only, and may run while a broker uses the directory.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "start at the first record at or after this `POSITION`")
	cmd.Flags().IntVar(&limit, "limit", 0, "stop after this many records (0: all)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object per record")
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		dir, err := logDir(args[0])
		if err != nil {
			return err
		}
		out := bufio.NewWriter(cmd.OutOrStdout())
		n := 0
		// The frame that holds from begins before it.
		_, base := segmentOf(dir, record.Position(from))
		err = commitlog.Scan(dir, base, func(f commitlog.Frame) error {
			if f.End <= record.Position(from) {
				return nil
			}
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			return record.Walk(f.Payload, f.Base(), func(pos record.Position, rec []byte, kind record.Kind) error {
				if pos < record.Position(from) {
					return nil
				}
				if limit > 0 && n == limit {
					return errEnough
				}
				n++
				v := viewRecord(&f, pos, rec, kind)
				if asJSON {
					return printJSON(out, v)
				}
				return v.print(out)
			})
		})
		if errors.Is(err, errEnough) {
			err = nil
		}
		return errors.Join(err, out.Flush())
	})
	return cmd
}

// recordView is a record in JSON. What it does not have is absent.
type recordView struct {
	Position record.Position     `json:"position"`
	Frame    uint64              `json:"frame"`
	Term     uint64              `json:"term"`
	Time     string              `json:"time"`
	Kind     string              `json:"kind"`
	Size     int                 `json:"size"`
	Topic    *uint64             `json:"topic,omitempty"`
	Group    *uint64             `json:"group,omitempty"`
	Name     string              `json:"name,omitempty"`
	Queue    *uint32             `json:"queue,omitempty"`
	Offset   *record.QueueOffset `json:"offset,omitempty"`
	ID       string              `json:"id,omitempty"`
	Tag      string              `json:"tag,omitempty"`
	Body     *int                `json:"body_bytes,omitempty"`
	Error    string              `json:"error,omitempty"`
}

func viewRecord(f *commitlog.Frame, pos record.Position, rec []byte, kind record.Kind) *recordView {
	v := &recordView{
		Position: pos, Frame: f.Index, Term: f.Term, Time: when(f.Time),
		Kind: kind.String(), Size: len(rec),
	}
	if err := checkRecord(rec, kind); err != nil {
		v.Error = err.Error()
		return v
	}
	if kind.IsMessage() {
		m, err := record.ParseMessage(rec)
		if err != nil {
			v.Error = err.Error()
			return v
		}
		topic, body := uint64(m.Topic), len(m.Body)
		v.Topic, v.Queue, v.Offset, v.Body = &topic, &m.Queue, &m.Offset, &body
		id, _ := m.Properties.Lookup(record.FieldMessageID)
		tag, _ := m.Properties.Lookup(record.FieldTag)
		v.ID, v.Tag = string(id), string(tag)
		return v
	}
	// Every command begins with what it is about.
	d := record.NewDecoder(record.Command(rec))
	number := func() *uint64 { n := d.Uvarint(); return &n }
	switch kind {
	case record.KindTopicPut:
		v.Topic, v.Name = number(), d.Resource().String()
	case record.KindTopicDelete, record.KindTrim:
		v.Topic = number()
	case record.KindGroupPut:
		v.Group, v.Name = number(), d.Resource().String()
	case record.KindGroupDelete:
		v.Group = number()
	case record.KindLease, record.KindAck, record.KindExtend, record.KindOffsetCommit:
		v.Group, v.Topic = number(), number()
	}
	return v
}

func (v *recordView) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12d frame %d  %s  %-13s %6d B", v.Position, v.Frame, v.Time, v.Kind, v.Size)
	if v.Group != nil {
		fmt.Fprintf(&b, "  group %d", *v.Group)
	}
	if v.Topic != nil {
		fmt.Fprintf(&b, "  topic %d", *v.Topic)
	}
	if v.Queue != nil {
		fmt.Fprintf(&b, "  queue %d  offset %d", *v.Queue, *v.Offset)
	}
	for _, s := range []struct{ name, value string }{{"name", v.Name}, {"id", v.ID}, {"tag", v.Tag}, {"BAD", v.Error}} {
		if s.value != "" {
			fmt.Fprintf(&b, "  %s %s", s.name, clean(s.value))
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// checkRecord verifies both checksums of a record.
func checkRecord(rec []byte, kind record.Kind) error {
	if err := record.Verify(rec); err != nil {
		return err
	}
	if !kind.IsMessage() {
		return nil
	}
	m, err := record.ParseMessage(rec)
	if err != nil {
		return err
	}
	return m.VerifyBody()
}

// checkView is the outcome of a check in JSON.
type checkView struct {
	OK        bool             `json:"ok"`
	Segments  int              `json:"segments"`
	Frames    uint64           `json:"frames"`
	Records   int              `json:"records"`
	Messages  int              `json:"messages"`
	Bytes     int64            `json:"bytes"`
	First     record.Position  `json:"first"`
	End       record.Position  `json:"end"`
	TornBytes int64            `json:"torn_bytes"`
	Segment   string           `json:"segment,omitempty"`
	Position  *record.Position `json:"position,omitempty"`
	Damage    string           `json:"damage,omitempty"`
}

func newLogCheck() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check DIR",
		Short: "Verify every checksum of the commit log",
		Long: `Verify every checksum of the commit log in DIR, a data directory: headers, frames,
their chain, records, bodies. It changes nothing, may run while a broker uses the
directory, and fails on damage, naming the file and the position.

What follows the last whole frame is not damage: it is being written at this
moment, or was when the broker was killed.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = run(func(cmd *cobra.Command, args []string) error {
		dir, err := logDir(args[0])
		if err != nil {
			return err
		}
		v, err := checkLog(cmd.Context(), dir)
		if err == nil && v.Damage != "" {
			err = fmt.Errorf("%s is damaged at position %d: %s", v.Segment, *v.Position, v.Damage)
		} else if err != nil {
			return err
		}
		if asJSON {
			return errors.Join(printJSON(cmd.OutOrStdout(), v), err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "verified %s, %s, %s, %s, %s from position %d to %d\n",
			count(v.Segments, "segment"), count(v.Frames, "frame"), count(v.Records, "record"), count(v.Messages, "message"),
			count(v.Bytes, "byte"), v.First, v.End)
		if v.TornBytes > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "%s after the last whole frame: being written, or cut at the next start\n", count(v.TornBytes, "byte"))
		}
		return err
	})
	return cmd
}

// checkLog verifies the log in two passes: its structure, then what is in the
// frames. Damage is in the view; an error says that it could not look.
func checkLog(ctx context.Context, dir string) (*checkView, error) {
	report, err := commitlog.Check(dir)
	v := &checkView{
		Segments: report.Segments, Frames: report.Frames, Bytes: report.Bytes,
		First: report.First, End: report.End, TornBytes: report.TornBytes,
	}
	if err == nil {
		err = commitlog.Scan(dir, 0, func(f commitlog.Frame) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			at := f.Base()
			err := record.Walk(f.Payload, f.Base(), func(pos record.Position, rec []byte, kind record.Kind) error {
				at = pos
				v.Records++
				if kind.IsMessage() {
					v.Messages++
				}
				return checkRecord(rec, kind)
			})
			if err != nil {
				path, _ := segmentOf(dir, at)
				return &commitlog.CorruptError{Segment: path, Pos: at, Cause: err}
			}
			return nil
		})
	}
	var corrupt *commitlog.CorruptError
	if errors.As(err, &corrupt) {
		v.Segment, v.Position, v.Damage = corrupt.Segment, &corrupt.Pos, corrupt.Cause.Error()
		// What the manifest misses is missing in a segment.
		if path, _ := segmentOf(dir, corrupt.Pos); path != "" && corrupt.Pos > 0 {
			v.Segment = path
		}
		return v, nil
	}
	v.OK = err == nil
	return v, err
}
