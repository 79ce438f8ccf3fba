package signal

import "testing"

func TestLayout(t *testing.T) {
	tests := map[string]struct {
		node, image, container uint64
		want                   Layout
		containerfs            [2]Signal // whose thresholds it has
	}{
		"one filesystem":            {1, 1, 1, Layout{}, [2]Signal{NodeFsAvailable, NodeFsInodesFree}},
		"images and layers apart":   {1, 2, 2, Layout{DedicatedImageFs: true}, [2]Signal{ImageFsAvailable, ImageFsInodesFree}},
		"images alone apart":        {1, 2, 1, Layout{true, true}, [2]Signal{NodeFsAvailable, NodeFsInodesFree}},
		"layers alone apart":        {1, 1, 2, Layout{true, true}, [2]Signal{NodeFsAvailable, NodeFsInodesFree}},
		"three apart":               {1, 2, 3, Layout{true, true}, [2]Signal{NodeFsAvailable, NodeFsInodesFree}},
		"a device number that is 0": {0, 0, 0, Layout{}, [2]Signal{NodeFsAvailable, NodeFsInodesFree}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := layoutOf(tc.node, tc.image, tc.container)
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			thresholds := [2]Signal{got.ThresholdsOf(ContainerFsAvailable), got.ThresholdsOf(ContainerFsInodesFree)}
			if thresholds != tc.containerfs {
				t.Errorf("containerfs has the thresholds of %v, want %v", thresholds, tc.containerfs)
			}
			for _, s := range []Signal{NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree, MemoryAvailable} {
				if got := got.ThresholdsOf(s); got != s {
					t.Errorf("%s has the thresholds of %s", s, got)
				}
			}
		})
	}
}
