package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan writes the manual from the commands themselves. It is hidden: who packages
// gantry runs it.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write a man page of each command to a directory", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: run(func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true // equal sources make equal pages
			return doc.GenManTree(root, &doc.GenManHeader{Title: "GANTRY", Section: "1", Source: "Gantry", Manual: "Gantry"}, args[0])
		}),
	}
}
