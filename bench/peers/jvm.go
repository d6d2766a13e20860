package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// java is the JVM of both peers: that of JAVA_HOME, or the first in PATH.
func java() string {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		return filepath.Join(home, "bin", "java")
	}
	if found, err := exec.LookPath("java"); err == nil {
		return found
	}
	return "java"
}

// maven runs the compile phase of the project in dir, which leaves jars in
// target/lib. Without network first: once all is there, none is needed.
func maven(ctx context.Context, dir string) error {
	for _, offline := range [][]string{{"-o"}, nil} {
		cmd := exec.CommandContext(ctx, "mvn", append(offline, "-q", "-B", "compile")...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		if offline == nil {
			return fmt.Errorf("mvn compile in %s: %w\n%s", dir, err, out)
		}
	}
	return nil
}

// jarVersion is the version in the name of a jar.
func jarVersion(lib, artifact string) (string, error) {
	found, err := filepath.Glob(filepath.Join(lib, artifact+"-*.jar"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d jars of %s in %s, want 1", len(found), artifact, lib)
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), artifact+"-"), ".jar"), nil
}
