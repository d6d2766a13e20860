package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/api/gateway"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/host"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// drainTimeout is how long clients get, after the first signal, to finish what
// they began. Below the 30 s after which supervisors usually kill.
const drainTimeout = 20 * time.Second

type serveFlags struct {
	data, listen, http, advertise string
	httpNames                     string
	durability                    string
	retentionAge, maxDelay        time.Duration
	retentionSize, segmentSize    byteSize
	sendMemory, diskReserve       byteSize
	scrubRate                     byteSize
	logLevel, logFormat           string
	tlsCert, tlsKey, clientCA     string
	traces                        string
	allowRemote, pprof            bool
	autoCreateGroups              bool
	node                          nodeFlags
	auth                          authFlags
}

func newServeFlags() *serveFlags {
	return &serveFlags{segmentSize: 1 << 30, diskReserve: 256 << 20, scrubRate: 8 << 20}
}

func newServe() *cobra.Command {
	f := newServeFlags()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a broker",
		Long: `Run a broker until SIGINT or SIGTERM, which let clients finish what they began; a
second signal ends it at once. Acknowledged messages survive either way.

Each flag but --config is a setting that may also be in the environment, as
GANTRY_SERVE_RETENTION_AGE=72h, or in a file, as retention-age: 72h. A flag goes
before the environment, that before the file; gantry config show tells which it was.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: run(func(cmd *cobra.Command, _ []string) error {
			if _, err := loadSettings(cmd.Flags(), os.Environ()); err != nil {
				return err
			}
			return f.serve(cmd)
		}),
	}
	f.add(cmd)
	return cmd
}

// add defines the settings: here and nowhere else.
func (f *serveFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	addConfigFlag(flags)
	flags.StringVar(&f.data, "data", "./gantry-data", "directory that holds everything; made when missing")
	flags.StringVar(&f.listen, "listen", defaultAddr, "`HOST:PORT` for clients: gRPC, TLS and plaintext alike (port 0: any)")
	flags.StringVar(&f.http, "http", "127.0.0.1:8082", "`HOST:PORT` for the dashboard, /metrics, /healthz and /readyz (port 0: any)")
	flags.StringVar(&f.httpNames, "http-names", "", "`NAMES`, with commas between them, by which the dashboard and /metrics may be asked for, besides addresses,\nlocalhost, this host's name and those in --http and --advertise: pages of other sites come with other names")
	flags.StringVar(&f.advertise, "advertise", "", "`HOST:PORT` that routes tell clients to dial (default: the address each client came by)")
	flags.StringVar(&f.durability, "durability", "sync", "what an acknowledged message has survived:\n"+
		"sync: it is on the disk (fdatasync, shared by all waiting senders)\n"+
		"unsafe-async: it is in the page cache, and a sync begins every 200 ms; a crash of the\n"+
		"machine or a power cut loses what was acknowledged since the last one began, at most\n"+
		"one second (senders wait for a disk that is slower), a crash of the broker alone none\n")
	flags.DurationVar(&f.retentionAge, "retention-age", 0, "drop messages older than this, a segment at a time (0: keep)")
	flags.DurationVar(&f.maxDelay, "max-delay", broker.DefaultMaxDelay, "refuse delivery times further ahead (the reference broker's limit is 24h)")
	flags.Var(&f.retentionSize, "retention-size", "drop the oldest segments while the log is larger than this, as `SIZE` like 50GiB (0: keep)")
	flags.Var(&f.segmentSize, "segment-size", "`SIZE` of one file of the log; disk space is taken and given back in this unit")
	flags.Var(&f.sendMemory, "send-memory", "`SIZE` that messages being sent may take together before they are stored; more is refused\n(0: an eighth of the memory there is, 32MiB to 512MiB)")
	flags.Var(&f.diskReserve, "disk-reserve", "refuse messages while less than `SIZE` of the disk is free (0: until it is full); acknowledgements go on")
	flags.Var(&f.scrubRate, "scrub-rate", "verify each part of the log once a day, reading `SIZE` a second (0: not at all)")
	flags.BoolVar(&f.autoCreateGroups, "auto-create-groups", true, "let consumer groups come into being at their first use")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "text", "text or json")
	flags.StringVar(&f.traces, "traces", "", "send OpenTelemetry spans of messages that carry a sampled trace context to this\n"+
		"OTLP/HTTP `URL` (default: what OTEL_EXPORTER_OTLP_ENDPOINT says, else none)")
	flags.BoolVar(&f.allowRemote, "insecure-allow-remote", false, "allow addresses other hosts can reach, although nobody is authenticated, or with --auth calls in plain text are")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "`FILE` with the certificate for clients, in PEM; read again when it changes (default: one is made at start)")
	flags.StringVar(&f.tlsKey, "tls-key", "", "`FILE` with its private key")
	flags.StringVar(&f.clientCA, "client-ca", "", "`FILE` with the authorities of clients' certificates, in PEM: one that is shown must be of them,\nand with --auth its common name is the user of calls without a signature")
	flags.BoolVar(&f.pprof, "pprof", false, "serve /debug/pprof on --http, which must then be a loopback address")
	f.auth.register(cmd)
	f.node.register(cmd)
	cmd.RegisterFlagCompletionFunc("durability", completeWords("sync", "unsafe-async"))
	cmd.RegisterFlagCompletionFunc("log-level", completeWords("debug", "info", "warn", "error"))
	cmd.RegisterFlagCompletionFunc("log-format", completeWords("text", "json"))
	cmd.MarkFlagDirname("data")
	cmd.MarkFlagFilename(configFlag, "yaml", "yml")
}

// check looks for what is wrong with settings by themselves.
func (f *serveFlags) check() error {
	_, err := parseDurability(f.durability)
	if err == nil {
		_, _, err = f.logger(io.Discard)
	}
	if err == nil {
		err = f.checkTLS()
	}
	if err == nil {
		err = f.checkAddrs(slog.New(slog.DiscardHandler))
	}
	if err == nil {
		err = f.checkShards()
	}
	if err == nil {
		err = f.auth.check()
	}
	return err
}

func (f *serveFlags) serve(cmd *cobra.Command) error {
	begun := time.Now()
	durability, err := parseDurability(f.durability)
	if err != nil {
		return err
	}
	logger, levels, err := f.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if err := f.checkAddrs(logger); err != nil {
		return err
	}
	if err := f.checkTLS(); err != nil {
		return err
	}
	if err := f.checkShards(); err != nil {
		return err
	}
	if err := f.auth.check(); err != nil {
		return err
	}
	if limit := limitMemory(); limit > 0 {
		logger.Info("memory limit taken from the cgroup", "bytes", limit)
	}
	dir, err := filepath.Abs(f.data)
	if err != nil {
		return err
	}

	if err := f.node.check(dir); err != nil {
		return err
	}

	// The ports are taken before the data is touched: a port in use is the
	// commonest mistake, and it should cost nothing. Clients that dial during
	// recovery wait in the backlog.
	clients, err := f.listenClients()
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer closeAll(clients)
	web, err := listenHTTP(f.http, f.hosts(), f.pprof, f.node.shards, logger)
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	defer web.close()

	traces, err := startTracing(f.traces, f.node.name, logger)
	if err != nil {
		return err
	}
	defer traces.close()
	options := broker.Options{
		Trace:         traces.step(),
		Dir:           dir,
		Durability:    durability,
		SegmentSize:   int64(f.segmentSize),
		RetentionAge:  f.retentionAge,
		RetentionSize: int64(f.retentionSize),
		MaxDelay:      f.maxDelay,
		SendMemory:    f.sendBound(),
		DiskReserve:   int64(f.diskReserve),
		ScrubRate:     int64(f.scrubRate),
		DiskFree: func() (int64, error) {
			_, free, err := host.Disk(dir)
			return free, err
		},
		AutoCreateGroups: f.autoCreateGroups,
		Logger:           logger,
		Fatal:            fatal(logger),
	}
	built := readBuild()
	serving := api.Options{
		CertFile: f.tlsCert, KeyFile: f.tlsKey, ClientCA: f.clientCA,
		Advertise: f.advertise, Logger: logger, Version: built.version, Commit: built.commit,
		Levels: levels, Calls: web.shards[0].calling, DataDir: dir, Durability: f.durability, FormatVersion: uint32(broker.FormatVersion()),
	}
	if err := f.auth.options(dir, f.node.name == "" || f.node.bootstrap, &options, &serving); err != nil {
		return err
	}
	if f.node.name != "" {
		return inUse(f.serveNode(cmd, options, serving, clients, web, begun), dir)
	}
	b, err := broker.Open(cmd.Context(), options)
	if err != nil {
		return inUse(err, dir)
	}
	if err := f.auth.prepare(cmd.Context(), b, logger); err != nil {
		return errors.Join(err, b.Close())
	}
	server := api.New(b, serving)
	web.ready(b, server.HTTP())
	served := make(chan error, 1)
	go func() { served <- server.Serve(clients[0]) }()

	f.greet(cmd, dir, clients, web.addr(), time.Since(begun))
	select {
	case err = <-served:
		now, cancel := context.WithCancel(context.Background())
		cancel()
		server.Shutdown(now) // nothing is left to drain, but calls by HTTP must end too
	case <-cmd.Context().Done():
		logger.Info("draining; a second signal ends it at once", "timeout", drainTimeout)
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		err = server.Shutdown(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			logger.Warn("clients were cut off: they did not finish in time", "timeout", drainTimeout)
			err = nil
		}
		err = errors.Join(err, <-served)
	}
	web.release()
	return errors.Join(err, b.Close())
}

// hosts are the names by which the HTTP port may be asked.
func (f *serveFlags) hosts() (names gateway.Hosts) {
	names = strings.FieldsFunc(f.httpNames, func(r rune) bool { return r == ',' || r == ' ' })
	for _, addr := range []string{f.http, f.advertise} {
		if host, _, err := splitAddr(addr); err == nil && host != "" {
			names = append(names, host)
		}
	}
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	return names
}

// inUse says in an operator's words that another broker has the directory.
func inUse(err error, dir string) error {
	var locked *mmapfile.LockedError
	if !errors.As(err, &locked) {
		return err
	}
	holder := "another process"
	if locked.PID != 0 {
		holder = fmt.Sprintf("process %d", locked.PID)
	}
	return fmt.Errorf("data directory %s is in use by %s: stop that, or give this broker another --data", dir, holder)
}

// greet says where everything is and what to do next. Scripts may read the two
// addresses from it: "clients" and "http" begin their lines.
func (f *serveFlags) greet(cmd *cobra.Command, dir string, all []net.Listener, web net.Addr, took time.Duration) {
	self, server, more := invocation(), "", ""
	clients := all[0].Addr()
	if clients.String() != defaultAddr {
		server = " --server " + reachable(clients)
	}
	if len(all) > 1 {
		more = fmt.Sprintf("\n  shards   %d, the last one's clients at %s", len(all), all[len(all)-1].Addr())
	}
	if f.auth.on {
		more += fmt.Sprintf("\n  auth     user %s, secret in %s", firstUser, clean(f.auth.admin))
		server += fmt.Sprintf(" --user %s --secret-file %s", firstUser, clean(f.auth.admin))
	}
	fmt.Fprintf(cmd.OutOrStdout(), `gantry %s
  data     %s (durability %s)
  clients  %s
  http     http://%s%s
ready in %d ms. To try it, in another terminal:

  %[8]s topic create hello%[9]s
  %[8]s send hello 'it works'%[9]s
  %[8]s receive hello --group readers%[9]s

`, readBuild(), clean(dir), f.durability, clients, web, more, took.Milliseconds(), self, server)
}

// invocation is how the person who reads it would run this program again.
func invocation() string {
	self, err := os.Executable()
	if err != nil {
		return "gantry"
	}
	if strings.Contains(self, string(filepath.Separator)+"go-build") {
		return "go run ./cmd/gantry"
	}
	if found, err := exec.LookPath("gantry"); err == nil && found == self {
		return "gantry"
	}
	if strings.ContainsRune(os.Args[0], filepath.Separator) {
		return os.Args[0]
	}
	return self
}

// reachable is an address to dial for one that was listened on.
func reachable(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok && t.IP.IsUnspecified() {
		return fmt.Sprintf("127.0.0.1:%d", t.Port)
	}
	return a.String()
}

// checkAddrs refuses to be reachable from other hosts unless that was asked for
// by a flag that says what it means.
func (f *serveFlags) checkAddrs(logger *slog.Logger) error {
	for _, a := range []struct{ flag, addr string }{{"--listen", f.listen}, {"--http", f.http}} {
		host, _, err := splitAddr(a.addr)
		switch {
		case err != nil:
			return usageErrorf("%s %q: want HOST:PORT", a.flag, a.addr)
		case loopback(host):
		case a.flag == "--http" && f.pprof:
			return usageErrorf("--pprof shows the memory of this process: it needs a loopback address in --http, not %s", a.addr)
		case !f.allowRemote && f.auth.on:
			return usageErrorf("%s %s can be reached from other hosts, and takes %s: add --insecure-allow-remote if that is meant", a.flag, a.addr, inPlainText[a.flag])
		case !f.allowRemote:
			return usageErrorf("%s %s can be reached from other hosts, and nobody is authenticated: add --auth and --insecure-allow-remote, or the latter alone if that is meant", a.flag, a.addr)
		case f.auth.on:
			logger.Warn("whoever can listen here can call as somebody else: this address takes "+inPlainText[a.flag], "flag", a.flag, "address", a.addr)
		default:
			logger.Warn("anybody who reaches this address can read, write and delete", "flag", a.flag, "address", a.addr)
		}
	}
	if f.advertise != "" {
		if _, _, err := splitAddr(f.advertise); err != nil {
			return usageErrorf("--advertise %q: want HOST:PORT", f.advertise)
		}
	}
	return nil
}

// inPlainText is what --auth does not protect from who can listen.
var inPlainText = map[string]string{
	"--listen": "calls in plain text, whose signatures can be used again",
	"--http":   "secrets in plain text",
}

// checkTLS is asked by serve, too.
func (f *serveFlags) checkTLS() error {
	if (f.tlsCert == "") != (f.tlsKey == "") || f.clientCA != "" && f.tlsCert == "" {
		return usageErrorf("--tls-cert and --tls-key go together, and --client-ca needs them")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func parseDurability(s string) (commitlog.Durability, error) {
	switch s {
	case "sync":
		return commitlog.DurabilitySync, nil
	case "unsafe-async":
		return commitlog.DurabilityUnsafeAsync, nil
	}
	return 0, usageErrorf("--durability %q: want sync or unsafe-async", s)
}

// logger writes to w, at levels that can be changed.
func (f *serveFlags) logger(w io.Writer) (*slog.Logger, *logging.Levels, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, nil, usageErrorf("--log-level %q: want debug, info, warn or error", f.logLevel)
	}
	levels := logging.New(level)
	everything := &slog.HandlerOptions{Level: slog.Level(math.MinInt)}
	switch f.logFormat {
	case "text":
		return slog.New(levels.Handler(slog.NewTextHandler(w, everything))), levels, nil
	case "json":
		return slog.New(levels.Handler(slog.NewJSONHandler(w, everything))), levels, nil
	}
	return nil, nil, usageErrorf("--log-format %q: want text or json", f.logFormat)
}
