package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

const (
	gantryAddr = "127.0.0.1:8081"
	gantryHTTP = "127.0.0.1:8082"
)

type gantry struct{}

func (g *gantry) name() string { return "gantry" }

func gantryBinary(c config) string { return filepath.Join(c.root, "bench/peers/target/gantry") }

func (g *gantry) prepare(ctx context.Context, c config) error {
	file, err := filepath.Abs(gantryBinary(c))
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", file, "./cmd/gantry")
	build.Dir = c.root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building gantry: %w\n%s", err, out)
	}
	return nil
}

func (g *gantry) versions(ctx context.Context, c config) (map[string]string, error) {
	// The binary of a work tree calls itself (devel): the commit says more.
	describe := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty")
	describe.Dir = c.root
	out, err := describe.Output()
	if err != nil {
		return nil, fmt.Errorf("git describe: %w", err)
	}
	return map[string]string{"gantry": strings.TrimSpace(string(out))}, nil
}

type gantryServer struct {
	broker   *process
	manage   *grpc.ClientConn
	official *official
}

func (g *gantry) start(ctx context.Context, c config, at place) (_ server, err error) {
	binary, err := filepath.Abs(gantryBinary(c))
	if err != nil {
		return nil, err
	}
	durability := map[string]string{async: "unsafe-async", sync_: "sync"}[at.durability]
	argv := []string{binary, "serve", "--data", filepath.Join(at.dir, "data"), "--listen", gantryAddr, "--http", gantryHTTP,
		"--durability", durability, "--log-level", "warn"}
	at.commands.add(map[string]string{binary: "gantry", at.dir: "$DIR"}, argv...)
	s := &gantryServer{}
	if s.broker, err = launch(at.dir, "gantry", nil, argv...); err != nil {
		return nil, err
	}
	if s.manage, err = grpc.NewClient(gantryAddr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		s.broker.stop()
		return nil, err
	}
	err = s.broker.await(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+gantryHTTP+"/readyz", nil)
		if err != nil {
			return err
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz: %s", r.Status)
		}
		return nil
	})
	s.official = &official{config: c, addr: gantryAddr, topics: s.topics}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *gantryServer) processes() []*process { return []*process{s.broker} }

func (s *gantryServer) phases() []phase {
	own := &streams{config: s.official.config, addr: gantryAddr, topics: s.topics}
	return append(append(own.phases(), s.official.phases()...), s.official.many())
}

func (s *gantryServer) stop() {
	s.official.close()
	s.manage.Close()
	s.broker.stop()
}

func (s *gantryServer) topics(ctx context.Context, prefix string, count, perTopic int) error {
	m := gantryv1.NewManagementClient(s.manage)
	for _, name := range topicNames(prefix, count) {
		if _, err := m.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: name, Queues: uint32(perTopic)}); err != nil {
			return err
		}
	}
	return nil
}
