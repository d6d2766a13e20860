package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

const (
	gantryAddr = "127.0.0.1:8081"
	gantryHTTP = "127.0.0.1:8082"
	gantryPeer = "127.0.0.1:8083"
)

type gantry struct{ nodes int }

func (g *gantry) name() string { return named("gantry", g.nodes) }

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
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = c.root
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	// The binary of a work tree calls itself (devel): the commit says more. Results of
	// repetitions before this one are no change of the program.
	commit, err := git("describe", "--always")
	if err != nil {
		return nil, err
	}
	changed, err := git("status", "--porcelain", "--untracked-files=no", "--", ":!docs")
	if changed != "" {
		commit += "-dirty"
	}
	return map[string]string{"gantry": commit}, err
}

type gantryServer struct {
	brokers  []*process
	manage   *grpc.ClientConn
	official *official
}

func (g *gantry) start(ctx context.Context, c config, at place) (_ server, err error) {
	binary, err := filepath.Abs(gantryBinary(c))
	if err != nil {
		return nil, err
	}
	durability := map[string]string{async: "unsafe-async", sync_: "sync"}[at.durability]
	s := &gantryServer{official: &official{config: c, addr: gantryAddr}}
	s.official.topics = s.topics
	if s.manage, err = grpc.NewClient(gantryAddr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return nil, err
	}
	for i := range g.nodes {
		web := port(gantryHTTP, i)
		argv := []string{binary, "serve", "--data", filepath.Join(at.dir, fmt.Sprint("data", i+1)), "--listen", port(gantryAddr, i), "--http", web,
			"--durability", durability, "--log-level", "warn"}
		if g.nodes > 1 {
			argv = append(argv, "--node", fmt.Sprint("n", i+1), "--peer", port(gantryPeer, i))
			if i == 0 {
				argv = append(argv, "--bootstrap")
			} else {
				argv = append(argv, "--join", gantryPeer)
			}
		}
		at.commands.add(map[string]string{binary: "gantry", at.dir: "$DIR"}, argv...)
		p, err := launch(at.dir, fmt.Sprint("gantry", i+1), nil, argv...)
		if err != nil {
			s.stop()
			return nil, err
		}
		s.brokers = append(s.brokers, p)
		if err := p.await(ctx, func(ctx context.Context) error { return readyAt(ctx, web) }); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

// readyAt asks a node's page whether it serves clients.
func readyAt(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
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
}

func (s *gantryServer) processes() []*process { return s.brokers }

func (s *gantryServer) phases() []phase {
	own := &streams{config: s.official.config, topics: s.topics}
	for i := range s.brokers {
		own.addrs = append(own.addrs, port(gantryAddr, i))
	}
	if len(s.brokers) > 1 {
		topic := func(ctx context.Context, name string) error { return own.topic(ctx, name, 1, queues) }
		return threeNodePhases(clientStreams, topic, own.publish, own.rate, s.kill, own.config)
	}
	return append(append(own.phases(), s.official.phases()...), s.official.many())
}

// kill ends the node that leads as a power cut would.
func (s *gantryServer) kill(ctx context.Context) error {
	d, err := gantryv1.NewClusterClient(s.manage).Describe(ctx, &gantryv1.DescribeClusterRequest{})
	if err != nil {
		return err
	}
	for _, n := range d.GetNodes() {
		if n.GetLeader() {
			i, err := strconv.Atoi(strings.TrimPrefix(n.GetName(), "n"))
			if err != nil {
				return err
			}
			return s.brokers[i-1].cmd.Process.Kill()
		}
	}
	return errors.New("no node leads")
}

func (s *gantryServer) stop() {
	s.official.close()
	s.manage.Close()
	stopAll(s.brokers)
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
