package loader

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// ErrLockdown means that the kernel's lockdown lets no BPF program read its memory
// (LOCKDOWN_BPF_READ_KERNEL, security/lockdown/lockdown.c).
var ErrLockdown = errors.New("the kernel was booted with lockdown=confidentiality: no BPF program may read its memory, so none of ours loads")

// LockdownFile shows the modes of the kernel's lockdown, where a securityfs is mounted.
const LockdownFile = "/sys/kernel/security/lockdown"

// Confidentiality is the mode of ErrLockdown.
const Confidentiality = "confidentiality"

// Lockdown reads which mode a LockdownFile marks.
//
//	none [integrity] confidentiality
func Lockdown(file string) (mode string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%w: is there a securityfs, and a lockdown module?", err)
	}
	_, rest, _ := strings.Cut(string(text), "[")
	mode, _, ok := strings.Cut(rest, "]")
	if !ok {
		return "", fmt.Errorf("%s says %q", file, strings.TrimSpace(string(text)))
	}
	return mode, nil
}

// lockedDown says of a verifier's refusal that it comes from the lockdown, where it does: the
// verifier itself says only that there is no such helper.
func lockedDown(refusal error) error {
	if mode, err := Lockdown(LockdownFile); err != nil || mode != Confidentiality {
		return refusal
	}
	return fmt.Errorf("%w (%w)", ErrLockdown, refusal)
}
