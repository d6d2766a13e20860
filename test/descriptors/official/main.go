// Command official prints package apache.rocketmq.v2 as the official Go client has it.
package main

import (
	"fmt"
	"os"

	_ "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"github.com/gantry-mq/gantry/test/descriptors/dump"
)

func main() {
	if err := dump.Package(os.Stdout, "apache.rocketmq.v2"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
