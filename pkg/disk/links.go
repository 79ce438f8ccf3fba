package disk

// maxLinks is how many inodes with several links all walks together remember: 8 bytes each
// in tables of which at least a quarter is used, so at most 32 MiB.
const maxLinks = 1 << 20

// linkRoom is what is left of maxLinks.
type linkRoom struct{ left int }

// linkSet remembers the inodes of one filesystem that have several links, so that each is
// counted once. Its zero value is empty.
type linkSet struct {
	slots []uint64 // inode + 1, 0 is free; the length is a power of two
	used  int
}

// add reports whether the inode is new to the set, and whether it could be remembered.
func (s *linkSet) add(ino uint64, room *linkRoom) (isNew, ok bool) {
	if 2*s.used >= len(s.slots) {
		s.grow()
	}
	slot := s.find(ino + 1)
	if *slot != 0 {
		return false, true
	}
	if room.left == 0 {
		return true, false
	}
	room.left--
	*slot, s.used = ino+1, s.used+1
	return true, true
}

func (s *linkSet) grow() {
	former := s.slots
	s.slots = make([]uint64, max(64, 2*len(former)))
	for _, key := range former {
		if key != 0 {
			*s.find(key) = key
		}
	}
}

// find returns the slot of a key, or the free one where it belongs.
func (s *linkSet) find(key uint64) *uint64 {
	mask := uint64(len(s.slots) - 1)
	for i := key * 0x9E3779B97F4A7C15 >> 20 & mask; ; i = (i + 1) & mask { // 2^64 / golden ratio
		if s.slots[i] == key || s.slots[i] == 0 {
			return &s.slots[i]
		}
	}
}

// release gives back what the set took.
func (s *linkSet) release(room *linkRoom) {
	room.left += s.used
	*s = linkSet{}
}
