package disk

import "slices"

const (
	// maxLinks is how many inodes with several links all walks together remember: 8 bytes each
	// in tables of which at least a quarter is used, so at most 32 MiB.
	maxLinks = 1 << 20
	// maxMet is how many directories and large files, of which each could be renamed to where it
	// is met again: 8 MiB more. Of those beyond none is missed, but one that moves may count twice.
	maxMet = 1 << 18
)

// linkRoom is what is left of maxLinks, and what is taken of maxMet.
type linkRoom struct{ left, met int }

// linkSet remembers inodes of one walk that have several links or may be met again, so that each
// is counted once. Its zero value is empty.
type linkSet struct {
	slots      []uint64 // inode + 1, 0 is free; the length is a power of two
	links, met int      // what is used of either room
	awaited    int
}

// isAwaited marks a slot; no inode is that large.
const isAwaited = 1 << 63

// add reports whether the inode is new to the set, and whether it could be remembered.
func (s *linkSet) add(ino uint64, room *linkRoom) (isNew, ok bool) {
	slot := s.slot(ino)
	if *slot != 0 {
		return false, true
	}
	if room.left == 0 {
		return true, false
	}
	room.left--
	*slot, s.links = ino+1, s.links+1
	return true, true
}

// meet is add with the other room. What can't be remembered is new each time.
func (s *linkSet) meet(ino uint64, room *linkRoom) (isNew bool) {
	slot := s.slot(ino)
	if *slot != 0 {
		return false
	}
	if room.met < maxMet {
		room.met++
		*slot, s.met = ino+1, s.met+1
	}
	return true
}

func (s *linkSet) has(ino uint64) bool { return len(s.slots) > 0 && *s.find(ino + 1) != 0 }

// await remembers an inode until it is met.
func (s *linkSet) await(ino uint64, room *linkRoom) {
	if s.meet(ino, room) && s.has(ino) {
		*s.find(ino + 1) |= isAwaited
		s.awaited++
	}
}

func (s *linkSet) awaits(ino uint64) bool {
	return s.awaited > 0 && *s.find(ino + 1)&isAwaited != 0
}

// forget waits for an inode no longer.
func (s *linkSet) forget(ino uint64) {
	if s.awaits(ino) {
		*s.find(ino + 1) &^= isAwaited
		s.awaited--
	}
}

// awaitsWith reports whether both wait for the same inode.
func (s *linkSet) awaitsWith(o *linkSet) bool {
	return s.awaited > 0 && slices.ContainsFunc(s.slots, func(slot uint64) bool {
		return slot&isAwaited != 0 && o.awaits(slot&^isAwaited-1)
	})
}

// slot finds an inode's, with room for another one.
func (s *linkSet) slot(ino uint64) *uint64 {
	if 2*(s.links+s.met) >= len(s.slots) {
		s.grow()
	}
	return s.find(ino + 1)
}

func (s *linkSet) grow() {
	former := s.slots
	s.slots = make([]uint64, max(64, 2*len(former)))
	for _, key := range former {
		if key != 0 {
			*s.find(key &^ isAwaited) = key
		}
	}
}

// find returns the slot of a key, or the free one where it belongs.
func (s *linkSet) find(key uint64) *uint64 {
	mask := uint64(len(s.slots) - 1)
	for i := key * 0x9E3779B97F4A7C15 >> 20 & mask; ; i = (i + 1) & mask { // 2^64 / golden ratio
		if s.slots[i]&^isAwaited == key || s.slots[i] == 0 {
			return &s.slots[i]
		}
	}
}

// release gives back what the set took.
func (s *linkSet) release(room *linkRoom) {
	room.left += s.links
	room.met -= s.met
	*s = linkSet{}
}
