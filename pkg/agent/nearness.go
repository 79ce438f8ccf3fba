package agent

import "time"

// nearness says, from how far the nearest memory wire is, whether the allocation hook has to
// be there.
type nearness struct {
	// margin is what can be filled while the hook is being attached, bytes.
	margin   int64
	farSince time.Time // zero: not far
}

// judge: near, attach the hook; far, every wire has been beyond twice the margin for a
// while, detach it; neither, leave it as it is. any is false when there is no memory wire.
func (n *nearness) judge(distance int64, any bool, now time.Time) (near, far bool) {
	if any && distance <= 2*n.margin {
		n.farSince = time.Time{}
		return distance < n.margin, false
	}
	if n.farSince.IsZero() {
		n.farSince = now
	}
	return false, now.Sub(n.farSince) > disarmAfter
}
