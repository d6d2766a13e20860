package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
)

// firstUser is made when a broker asks for users for the first time.
const firstUser = "admin"

// authFlags say whether and how a broker asks who calls.
type authFlags struct {
	on         bool
	key, admin string
	skew       time.Duration
	utc        bool
	flags      *pflag.FlagSet
}

func (f *authFlags) register(cmd *cobra.Command) {
	f.flags = cmd.Flags()
	f.flags.BoolVar(&f.on, "auth", false, "ask who calls, and let users do what their policies say: see gantry user and gantry acl")
	f.flags.StringVar(&f.key, "auth-key", "", "`FILE` with the key that seals the users' secrets, made when missing; keys on further lines\n"+
		"open what they sealed before; never in the data directory, the same for all nodes of a cluster (default: the name of the data directory and .key)")
	f.flags.StringVar(&f.admin, "auth-admin", "", "`FILE` with the secret of user "+firstUser+", the first one; made when missing\n"+
		"(default: the name of the data directory and .admin-secret)")
	f.flags.DurationVar(&f.skew, "auth-skew", 5*time.Minute, "how far a client's clock may be off, and how long a signature is good; up to 7m30s without --auth-utc")
	f.flags.BoolVar(&f.utc, "auth-utc", false, "take only signatures of UTC times; the official clients sign the local time, whatever zone that is")
	cmd.MarkFlagFilename("auth-key")
	cmd.MarkFlagFilename("auth-admin")
}

// check reports settings without a meaning: who sets one believes that it is in force.
func (f *authFlags) check() error {
	for _, name := range []string{"auth-key", "auth-admin", "auth-skew", "auth-utc"} {
		if !f.on && f.flags.Changed(name) {
			return usageErrorf("--%s without --auth: nobody would be asked who calls", name)
		}
	}
	switch {
	case f.on && f.skew <= 0:
		return usageErrorf("--auth-skew %v: want more than 0", f.skew)
	case f.on && !f.utc && f.skew > access.MaxZoneSkew:
		return usageErrorf("--auth-skew %v: without --auth-utc want %v at most, or a time of any zone would do", f.skew, access.MaxZoneSkew)
	}
	return nil
}

// options fills in what the broker and the server need. fresh says that the key may be
// made: the other nodes of a cluster must be given that of the first.
func (f *authFlags) options(dir string, fresh bool, b *broker.Options, s *api.Options) (err error) {
	if !f.on {
		return nil
	}
	key, err := f.path("auth-key", f.key, dir, ".key")
	if err != nil {
		return err
	}
	if f.admin, err = f.path("auth-admin", f.admin, dir, ".admin-secret"); err != nil {
		return err
	}
	make := access.NewMasterKey
	if !fresh {
		make = nil
	}
	text, err := privateFile(key, make)
	if err != nil {
		return fmt.Errorf("--auth-key: %w", err)
	}
	if b.MasterKey, err = access.ParseMasterKey(text); err != nil {
		return fmt.Errorf("--auth-key %s: %w", key, err)
	}
	s.Auth = &api.Auth{Clock: access.Clock{Skew: f.skew, UTC: f.utc}}
	return nil
}

// path is where one of the two files is: not with the data, which is copied to places
// where secrets must not be.
func (f *authFlags) path(flag, path, dir, suffix string) (string, error) {
	if path == "" {
		return filepath.Clean(dir) + suffix, nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(real, filepath.Base(abs))
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if rel, err := filepath.Rel(dir, abs); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", usageErrorf("--%s %s is in the data directory: whoever gets a copy of that must not get this", flag, path)
	}
	return abs, nil
}

// privateFile reads a file that nobody else may read. One that is missing is made,
// unless make is nil.
func privateFile(path string, make func() string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && make != nil:
		text := make()
		return text, writePrivate(path, text)
	case err != nil:
		return "", err
	case info.Mode().Perm()&^mayHave(info) != 0:
		return "", fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	return strings.TrimSpace(string(raw)), err
}

// mayHave is who may do what with a private file: its owner, and the group of one that
// another user gave to this process to read, as Kubernetes mounts secrets.
func mayHave(info fs.FileInfo) fs.FileMode {
	if own, ok := info.Sys().(*syscall.Stat_t); ok && int(own.Uid) != os.Geteuid() {
		return 0o740
	}
	return 0o700
}

// writePrivate writes a new file, durably: what is sealed by it must not survive it.
func writePrivate(path, text string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkKey reports a key that does not open what the users' secrets are sealed with.
func (f *authFlags) checkKey(b *broker.Broker) error {
	if !f.on {
		return nil
	}
	if err := b.Access().CheckKey(); err != nil {
		return fmt.Errorf("--auth-key: %w", err)
	}
	return nil
}

// prepare sees to it that somebody can call: a broker that serves for the first time
// gets its first user.
func (f *authFlags) prepare(ctx context.Context, b *broker.Broker, logger *slog.Logger) error {
	users := len(b.Access().Users())
	switch {
	case !f.on && users > 0:
		logger.Warn("there are users, but without --auth nobody is asked who calls", "users", users)
		return nil
	case !f.on:
		return nil
	}
	if err := f.checkKey(b); err != nil {
		return err
	}
	if users > 0 {
		return nil
	}
	secret, err := privateFile(f.admin, rand.Text)
	if err != nil {
		return fmt.Errorf("--auth-admin: %w", err)
	}
	if _, err := b.CreateUser(ctx, access.User{Name: firstUser, Super: true, Enabled: true}, secret); err != nil {
		return fmt.Errorf("--auth-admin %s: %w", f.admin, err)
	}
	logger.Info("the first user was made", "user", firstUser, "secret_file", f.admin)
	return nil
}
