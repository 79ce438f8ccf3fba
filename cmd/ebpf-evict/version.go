package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// version is set by the linker.
var version = "devel"

func newVersionCmd(out io.Writer) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  ebpf-evict version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			platform := runtime.GOOS + "/" + runtime.GOARCH
			switch format {
			case "table":
				_, err := fmt.Fprintf(out, "ebpf-evict %s (%s, %s)\n", version, runtime.Version(), platform)
				return err
			case "json":
				return json.NewEncoder(out).Encode(map[string]string{
					"version": version, "go": runtime.Version(), "platform": platform, "journalSchema": record.Schema,
				})
			}
			return usageError{fmt.Errorf("-o %q: want table or json", format)}
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}
