package record

import (
	"crypto/rand"
	"fmt"

	"github.com/oklog/ulid/v2"
)

// ID is the ULID of an eviction. Its text sorts by time.
type ID [16]byte

// MakeID makes an id of a wall time in Unix milliseconds. It does not allocate, so it may
// be called between the wake-up and SIGKILL, with entropy drawn before.
func MakeID(unixMilli uint64, entropy [10]byte) ID {
	var u ulid.ULID
	_ = u.SetTime(min(unixMilli, ulid.MaxTime())) // fails only beyond MaxTime, in the year 10889
	copy(u[6:], entropy[:])
	return ID(u)
}

// Entropy draws random bytes for MakeID from the kernel.
func Entropy() (e [10]byte) {
	_, _ = rand.Read(e[:]) // never fails since Go 1.24
	return e
}

// ParseID parses the 26 characters of an id, in either case.
func ParseID(s string) (ID, error) {
	u, err := ulid.ParseStrict(s)
	if err != nil {
		return ID{}, fmt.Errorf("parse id %q: %w", s, err)
	}
	return ID(u), nil
}

func (id ID) String() string { return ulid.ULID(id).String() }

// IsZero reports whether there is no id.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText and UnmarshalText are the JSON form, a string of 26 characters.
func (id ID) MarshalText() ([]byte, error) { return ulid.ULID(id).MarshalText() }

// UnmarshalText refuses what ParseID refuses.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}
