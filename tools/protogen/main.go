// Command protogen regenerates the Go code of every .proto file under proto/.
//
// It needs Go and nothing else: the files are compiled here, and the code is
// written by protoc-gen-go and protoc-gen-go-grpc at the versions pinned in this
// module's go.mod. It is a module of its own so that none of these tools is
// among the dependencies of the broker.
//
// Run it in its own folder (proto/generate.sh does): go run .
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const (
	root   = "../.." // the repository, seen from this folder
	module = "github.com/gantry-mq/gantry"
)

// plugins in order, with their parameters. Names are tool directives in go.mod.
var plugins = []struct{ name, parameter string }{
	{"protoc-gen-go", "module=" + module},
	{"protoc-gen-go-grpc", "module=" + module},
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sources := filepath.Join(root, "proto")
	names, err := protoFiles(sources)
	if err != nil {
		return err
	}
	request, err := compile(ctx, sources, names)
	if err != nil {
		return err
	}
	written := map[string]bool{}
	for _, p := range plugins {
		request.Parameter = proto.String(p.parameter)
		files, err := generate(ctx, p.name, request)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		for _, f := range files {
			path := filepath.Join(root, filepath.FromSlash(f.GetName()))
			if err := write(path, f.GetContent()); err != nil {
				return err
			}
			written[path] = true
		}
	}
	return removeStale(sources, written)
}

// protoFiles lists the .proto files below dir, sorted, as import paths.
func protoFiles(dir string) ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".proto") {
			names = append(names, path)
		}
		return err
	})
	return names, err
}

// compile does what protoc would: it links the files with what they import and
// returns the request a plugin expects, dependencies before dependents.
func compile(ctx context.Context, dir string, names []string) (*pluginpb.CodeGeneratorRequest, error) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // comments go into the Go code
	}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{FileToGenerate: names}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) {
		if seen[fd.Path()] {
			return
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			add(fd.Imports().Get(i).FileDescriptor)
		}
		request.ProtoFile = append(request.ProtoFile, protoFile(fd))
	}
	for _, f := range files {
		add(f)
	}
	return request, nil
}

// protoFile returns fd's descriptor in the bytes the linker made of it.
func protoFile(fd protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	if r, ok := fd.(linker.Result); ok {
		return r.FileDescriptorProto()
	}
	return protoutil.ProtoFromFileDescriptor(fd)
}

// generate runs one plugin: the request goes to its stdin, the files come from
// its stdout.
func generate(ctx context.Context, plugin string, request *pluginpb.CodeGeneratorRequest) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	in, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "tool", plugin)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		return nil, err
	}
	if response.Error != nil {
		return nil, errors.New(response.GetError())
	}
	return response.GetFile(), nil
}

// write leaves a file that is up to date alone, so that its age means something
// to build caches.
func write(path, content string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == content {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fmt.Println("wrote", strings.TrimPrefix(path, root+"/"))
	return os.WriteFile(path, []byte(content), 0o644)
}

// removeStale deletes generated files whose source is gone.
func removeStale(dir string, written map[string]bool) error {
	var stale []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".pb.go") && !written[path] {
			stale = append(stale, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(slices.Values(stale)) {
		fmt.Println("removed", strings.TrimPrefix(path, root+"/"))
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
