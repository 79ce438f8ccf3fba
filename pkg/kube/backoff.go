package kube

import (
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// backoff spaces the tries of one thing.
type backoff struct {
	first, most time.Duration
	tries       int
}

// next is how long to wait after a try that failed: twice as long each time, spread by
// half, so that the companions of a cluster do not come back at once. What the server asks
// for (Retry-After) is the least.
func (b *backoff) next(err error) time.Duration {
	wait := min(b.most, b.first<<min(b.tries, 20))
	b.tries++
	wait = wait/2 + rand.N(wait)
	if asked, ok := apierrors.SuggestsClientDelay(err); ok {
		wait += time.Duration(asked) * time.Second
	}
	return wait
}

func (b *backoff) reset() { b.tries = 0 }
