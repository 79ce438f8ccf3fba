// Package cgroupfs reads and writes the files of a cgroup tree, v1 and v2 behind one
// shape. The root is an argument, so a plain directory tree serves as well. A cgroup that
// vanished is [ErrGone], never a surprise.
//
// An open [Cgroup] holds its directories: one that is removed and made again under the
// same name is another cgroup, and nothing done through the old one can reach it.
package cgroupfs
