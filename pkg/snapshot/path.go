package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// pathTo names the first value of a document that ends, or whose key or bracket does, at an
// offset or after it: "workloads[2].containers[0].logsBytes".
func pathTo(document []byte, offset int64) string {
	tokens := json.NewDecoder(bytes.NewReader(document))
	var open []*place
	for {
		token, err := tokens.Token()
		if err != nil {
			return ""
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			open = open[:len(open)-1]
			continue
		}
		if len(open) > 0 {
			open[len(open)-1].step(token)
		}
		if tokens.InputOffset() >= offset {
			return describe(open)
		}
		if d, ok := token.(json.Delim); ok {
			open = append(open, &place{list: d == '[', index: -1})
		}
	}
}

// place is where we are in a list or an object.
type place struct {
	list  bool
	index int
	key   string
	// keyed: the next token of an object is a value.
	keyed bool
}

// step goes on to the token: the next of a list, or key or value of an object.
func (p *place) step(token json.Token) {
	switch {
	case p.list:
		p.index++
	case p.keyed:
		p.keyed = false
	default:
		p.key, p.keyed = token.(string), true
	}
}

func describe(open []*place) string {
	var path strings.Builder
	for _, p := range open {
		switch {
		case p.list:
			fmt.Fprintf(&path, "[%d]", p.index)
		case strings.Contains(p.key, "."): // a signal
			fmt.Fprintf(&path, "[%s]", p.key)
		default:
			fmt.Fprintf(&path, ".%s", p.key)
		}
	}
	return strings.TrimPrefix(path.String(), ".")
}
