// Package actuator kills one unit, completely: the first SIGKILL at once through handles
// opened before, the rest until nothing is left. It is the only room that kills.
package actuator
