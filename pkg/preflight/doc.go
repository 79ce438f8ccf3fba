// Package preflight says what this node allows the agent: kernel, rights, hooks, and so the
// tier of each signal. It tries rather than looks up versions, and leaves nothing behind.
// The rooms are asked what they can do; nobody but the command imports it.
package preflight
