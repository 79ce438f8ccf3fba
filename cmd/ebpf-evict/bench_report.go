package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ebpf-evict/ebpf-evict/pkg/bench"
)

func newBenchReportCmd(out io.Writer) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "report FILE.json…",
		Short: "Draw results of the other subcommands on one self-contained page",
		Long: "Reads what `bench latency|overhead|scale -o json` printed, writes one HTML page that needs\n" +
			"nothing else, and beside it all the raw figures as JSON.",
		Example: "  ebpf-evict bench report latency.json overhead.json --out bench.html",
		RunE: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				return usageError{errors.New("name the files to draw")}
			}
			if filepath.Ext(file) != ".html" {
				return usageError{fmt.Errorf("--out %q: want a name that ends in .html", file)}
			}
			return writeReport(out, files, file)
		},
	}
	cmd.Flags().StringVar(&file, "out", "bench.html", "the page; the raw figures go into a .json of the same name")
	return cmd
}

func writeReport(out io.Writer, files []string, page string) error {
	var r bench.Report
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil {
			err = r.Add(data)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
	}
	var html bytes.Buffer
	if err := r.WriteHTML(&html); err != nil {
		return err
	}
	data, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	raw := strings.TrimSuffix(page, ".html") + ".json"
	if err := errors.Join(os.WriteFile(page, html.Bytes(), 0o644), os.WriteFile(raw, append(data, '\n'), 0o644)); err != nil {
		return err
	}
	fmt.Fprintln(out, page)
	fmt.Fprintln(out, raw)
	return nil
}
