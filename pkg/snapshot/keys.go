package snapshot

import "bytes"

// repeatedKey finds a key that an object of a valid document has already, whatever the case
// of its letters, and returns the offset behind it. encoding/json takes such keys for one:
// the last counts, or of lists a mixture.
func repeatedKey(document []byte) (offset int64, found bool) {
	var keys [][]byte // of all open objects
	var open []int    // where each one's keys begin; -1 for a list
	wanted := false
	for i := 0; i < len(document); i++ {
		switch document[i] {
		case '{':
			open, wanted = append(open, len(keys)), true
		case '[':
			open, wanted = append(open, -1), false
		case '}', ']':
			if start := open[len(open)-1]; start >= 0 {
				keys = keys[:start]
			}
			open, wanted = open[:len(open)-1], false
		case ',':
			wanted = open[len(open)-1] >= 0
		case '"':
			text := stringAt(document[i:])
			i += len(text) - 1
			if !wanted {
				continue
			}
			if hasFold(keys[open[len(open)-1]:], text) {
				return int64(i + 1), true
			}
			keys, wanted = append(keys, text), false
		}
	}
	return 0, false
}

// stringAt is the string that a document begins with, in its quotes.
func stringAt(document []byte) []byte {
	for i := 1; i < len(document); i++ {
		switch document[i] {
		case '\\':
			i++
		case '"':
			return document[:i+1]
		}
	}
	return document
}

func hasFold(keys [][]byte, key []byte) bool {
	for _, k := range keys {
		if bytes.EqualFold(k, key) {
			return true
		}
	}
	return false
}
