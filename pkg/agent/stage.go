package agent

// stage is a point of an eviction's way that has an outcome of its own should the agent die
// there. Tests stop it at each.
type stage int

const (
	// stageWoke: a crossing was taken from the ring buffer.
	stageWoke stage = iota + 1
	// stageStored: the intent is stored, nothing is sent.
	stageStored
	// stageStruck: SIGKILL is sent, and the intent does not say so yet.
	stageStruck
	// stageSignalled: the intent says so.
	stageSignalled
	// stageBraked: the victim can't fork any more.
	stageBraked
	// stageKillLine: the kill line is in the journal.
	stageKillLine
	// stageDead: the victim is dead, and no line says so yet.
	stageDead
	// stageClosed: the eviction line is in the journal, and the intent is not freed yet.
	stageClosed
	// stageCanaryDecided and stageCanaryStruck are before and after a drill's SIGKILL.
	stageCanaryDecided
	stageCanaryStruck
)

// at tells a test where the agent is.
func (a *Agent) at(s stage) {
	if a.onStage != nil {
		a.onStage(s)
	}
}
