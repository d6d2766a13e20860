package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/internal/pki"
)

// A directory of certificates has ca.crt and, where nodes are made, ca.key; and for
// each node NAME.crt and NAME.key. A node needs its own two and ca.crt.

func newCert() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "Make the certificates with which the nodes of a cluster know each other",
		Long: `Make the certificates with which the nodes of a cluster know each other. Give each
node its own two files and ca.crt, and keep ca.key away from all of them: who has it
can be any node.`,
	}
	cmd.AddCommand(newCertCA(), newCertNode())
	return cmd
}

func newCertCA() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:               "ca NAME",
		Short:             "Make the authority of the cluster NAME: ca.crt and ca.key",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: run(func(cmd *cobra.Command, args []string) error {
			pair, err := pki.NewCA(args[0], time.Now())
			if err != nil {
				return err
			}
			return writePair(cmd, dir, "ca", pair)
		}),
	}
	cmd.Flags().StringVar(&dir, "dir", "./certs", "directory of the certificates; made when missing")
	return cmd
}

func newCertNode() *cobra.Command {
	var dir string
	var hosts []string
	days := 825
	cmd := &cobra.Command{
		Use:               "node NAME",
		Short:             "Make the certificate of the node NAME: NAME.crt and NAME.key",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: run(func(cmd *cobra.Command, args []string) error {
			ca, err := readPair(dir, "ca")
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: make the authority first, with: gantry cert ca NAME --dir %s", err, dir)
			}
			if err != nil {
				return err
			}
			pair, err := pki.NewNode(ca, args[0], hosts, time.Now(), time.Duration(days)*24*time.Hour)
			if err != nil {
				return err
			}
			return writePair(cmd, dir, args[0], pair)
		}),
	}
	cmd.Flags().StringVar(&dir, "dir", "./certs", "directory of the certificates")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "`HOST` by which it is reached, too: a name or an IP address")
	cmd.Flags().IntVar(&days, "days", days, "how long it is valid")
	return cmd
}

func readPair(dir, name string) (p pki.Pair, err error) {
	if p.Cert, err = os.ReadFile(filepath.Join(dir, name+".crt")); err != nil {
		return p, err
	}
	p.Key, err = os.ReadFile(filepath.Join(dir, name+".key"))
	return p, err
}

// writePair never replaces a file: what was signed with an authority that is lost is
// worth nothing.
func writePair(cmd *cobra.Command, dir, name string, p pki.Pair) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{{name + ".key", p.Key, 0o600}, {name + ".crt", p.Cert, 0o644}} {
		path := filepath.Join(dir, file.name)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, file.mode)
		if err != nil {
			return err
		}
		_, err = f.Write(file.data)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), clean(path))
	}
	return nil
}

// loadIdentity reads what the node needs of a directory of certificates.
func loadIdentity(dir, node string) (*pki.Identity, error) {
	own, err := readPair(dir, node)
	if err != nil {
		return nil, fmt.Errorf("--certs: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("--certs: %w", err)
	}
	id, err := pki.NewIdentity(node, ca, own)
	if err != nil {
		return nil, fmt.Errorf("--certs %s: %s: %w", clean(dir), node, err)
	}
	return id, nil
}
