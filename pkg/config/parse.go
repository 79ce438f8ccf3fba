package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// decoder stores the JSON value of a key. It returns nil or an *Error.
type decoder func(key string, raw json.RawMessage) error

// Parse parses and validates YAML; keys that are absent or null keep their default, or
// what the KubeletConfiguration says that kubeletConfig names. Unknown and repeated keys
// are errors. The error is as in Load.
func Parse(data []byte) (*Config, error) { return parse(data, readFile) }

func parse(data []byte, read func(path string) ([]byte, error)) (*Config, error) {
	c, own, err := parseOwn(data)
	if err != nil {
		return nil, err
	}
	if c, err = c.inherit(own, read); err != nil {
		return nil, err
	}
	if _, err := c.Thresholds(); err != nil {
		return nil, err
	}
	return c, nil
}

// parseOwn returns what the file says beside the defaults, and the file as JSON.
func parseOwn(data []byte) (*Config, json.RawMessage, error) {
	own, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, nil, err
	}
	if secondDocument(data) {
		return nil, nil, &Error{Key: "the file", Want: "one YAML document"}
	}
	c := Default()
	return c, own, decodeObject("", own, c.keys())
}

// secondDocument reports what the YAML parser would silently ignore. "---" at the start of
// a line is a document's start wherever it stands (YAML 1.2, 9.1.2).
func secondDocument(data []byte) bool {
	started, ended := false, false
	for line := range strings.Lines(strings.ReplaceAll(string(data), "\r", "\n")) {
		first, _, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
		switch blank := strings.TrimSpace(line); {
		case blank == "" || blank[0] == '#' || (line[0] == '%' && !started):
		case ended || (first == "---" && started):
			return true
		case first == "...":
			ended = true
		default:
			started = true
		}
	}
	return false
}

// keys are all keys of the file. They are decoded one by one, not by encoding/json's
// struct decoding, which takes keys in any case, and not by sigs.k8s.io/yaml's, which
// takes numbers for strings.
func (c *Config) keys() map[string]decoder {
	return map[string]decoder{
		"kubeletConfig":                    filePath(&c.KubeletConfig),
		"headroom":                         c.Headroom.decode,
		"evictionHard":                     quantities(&c.EvictionHard),
		"evictionSoft":                     quantities(&c.EvictionSoft),
		"evictionSoftGracePeriod":          strs(&c.EvictionSoftGracePeriod, graceForm),
		"evictionMinimumReclaim":           quantities(&c.EvictionMinimumReclaim),
		"evictionMaxPodGracePeriod":        value(&c.EvictionMaxPodGracePeriod, "seconds as a 32-bit number", nil),
		"evictionPressureTransitionPeriod": duration(&c.EvictionPressureTransitionPeriod, defaultTransitionPeriod),
		"mergeDefaultEvictionSettings":     boolean(&c.MergeDefaultEvictionSettings),
		"enforceNodeAllocatable":           value(&c.EnforceNodeAllocatable, enforceForm, enforceOK),
		"localStorageCapacityIsolation":    boolean(&c.LocalStorageCapacityIsolation),
		"mode":                             choice(&c.Mode, ModeShadow, ModeEnforce),
		"compat":                           choice(&c.Compat, "", CompatKubelet),
		"roots":                            c.roots,
		"journal":                          filePath(&c.Journal),
		"state":                            filePath(&c.State),
		"workloads":                        filePath(&c.Workloads),
		"tableOwner":                       value(&c.TableOwner, "a numeric uid", nil),
		"allowEvictFirst":                  boolean(&c.AllowEvictFirst),
		"nodefs":                           c.nodefs,
		"imagefs":                          c.imagefs,
		"containerfs":                      directory(&c.Containerfs),
		"disk":                             filePath(&c.Disk),
		"diskDirectories":                  value(&c.DiskDirectories, `a map of globs of cgroups to lists of absolute directories without a slash at the end, such as {"/my.slice/web.service": ["/srv/web"]}`, directoriesOK),
		"containerRuntimeEndpoint":         endpoint(&c.ContainerRuntimeEndpoint),
		"imageMinimumGCAge":                duration(&c.ImageMinimumGCAge, defaultImageAge),
		"podLogsDir":                       c.podLogsDir,
		"reclaim":                          filePath(&c.Reclaim),
		"reclaimDeadline":                  pause(&c.ReclaimDeadline, minReclaimDeadline, maxReclaimDeadline, "no reclaim"),
		"hugepages":                        boolean(&c.Hugepages),
		"protect":                          value(&c.Protect, `a list of globs such as ["kube-system/*"]`, globsOK),
		"budget":                           c.Budget.decode,
		"drill":                            c.Drill.decode,
		"backstop":                         c.Backstop.decode,
		"leastTier":                        choice(&c.LeastTier, LeastTierBPF, LeastTierEvent, LeastTierPoll),
		"fillBytesPerSecond":               amount(&c.MaxFillBytesPerSecond),
		"marginBytes":                      amount(&c.MarginBytes),
		"btf":                              filePath(&c.BTF),
	}
}

func (b *Budget) decode(key string, raw json.RawMessage) error {
	form := fmt.Sprintf("a number from 0 (no kill at all) to %d", decide.MaxBudgetPerHour)
	ok := func(n int) bool { return n >= 0 && n <= decide.MaxBudgetPerHour }
	return decodeObject(key, raw, map[string]decoder{
		"killsPerMinute": value(&b.KillsPerMinute, form, ok),
		"killsPerHour":   value(&b.KillsPerHour, form, ok),
	})
}

func (d *Drill) decode(key string, raw json.RawMessage) error {
	return decodeObject(key, raw, map[string]decoder{
		"atStart": boolean(&d.AtStart),
		"every":   pause(&d.Every, minDrillEvery, maxDrillEvery, "never"),
	})
}

const (
	// minDrillEvery keeps drills from being most of what an agent does.
	minDrillEvery = time.Second
	// maxDrillEvery is 292 years: what 64 bits of nanoseconds hold.
	maxDrillEvery = math.MaxInt64 / time.Hour * time.Hour
)

const (
	// minReclaimDeadline is what a container runtime takes to remove an image.
	minReclaimDeadline = time.Second
	// maxReclaimDeadline is the longest that a node may be left under pressure.
	maxReclaimDeadline = 10 * time.Minute
)

// pause decodes a duration between two bounds, or 0 for what that means.
func pause(dst *time.Duration, least, most time.Duration, zero string) decoder {
	return func(key string, raw json.RawMessage) error {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			s = string(raw) // 0 needs no unit
		}
		d, err := time.ParseDuration(s)
		if err != nil || d != 0 && (d < least || d > most) {
			return &Error{Key: key, Value: show(raw), Want: fmt.Sprintf(`a duration from %v to %s such as "%s", or 0 (%s)`, least, round(most), round(*dst), zero)}
		}
		*dst = d
		return nil
	}
}

// round writes whole hours and minutes without what is zero behind them.
func round(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%.0fh", d.Hours())
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%.0fm", d.Minutes())
	}
	return d.String()
}

func (b *Backstop) decode(key string, raw json.RawMessage) error {
	return decodeObject(key, raw, map[string]decoder{
		"enabled": boolean(&b.Enabled),
		"grace":   b.decodeGrace,
	})
}

func (b *Backstop) decodeGrace(key string, raw json.RawMessage) error {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		s = string(raw) // 0 needs no unit, and so no quotes
	}
	d, err := time.ParseDuration(s)
	if err != nil || d != 0 && (d < MinGrace || d > MaxGrace) {
		return &Error{Key: key, Value: show(raw), Want: fmt.Sprintf("a duration from %v to %v, or 0 (the kernel acts first)", MinGrace, MaxGrace)}
	}
	b.Grace = d
	return nil
}

func (c *Config) roots(key string, raw json.RawMessage) error {
	err := value(&c.Roots, `a list of absolute cgroup paths below the top, such as ["/kubepods.slice"]`, rootsOK)(key, raw)
	c.RootsGiven = err == nil
	return err
}

func (c *Config) nodefs(key string, raw json.RawMessage) error {
	err := directory(&c.Nodefs)(key, raw)
	c.NodefsGiven = err == nil
	return err
}

// podLogsDir takes "" for the default, as the kubelet does.
func (c *Config) podLogsDir(key string, raw json.RawMessage) error {
	if string(raw) == `""` {
		return nil
	}
	return directory(&c.PodLogsDir)(key, raw)
}

func (c *Config) imagefs(key string, raw json.RawMessage) error {
	err := directory(&c.Imagefs)(key, raw)
	c.ImagefsGiven = err == nil
	return err
}

// decodeObject decodes the members of a JSON object, all of which keys must name.
func decodeObject(parent string, raw json.RawMessage, keys map[string]decoder) error {
	members, err := object(parent, raw, keys)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if keys[name] == nil {
			return &Error{Key: member(parent, name), Unknown: "no such key", Want: "one of " + list(keys)}
		}
	}
	return decodeMembers(parent, members, keys)
}

func object(parent string, raw json.RawMessage, keys map[string]decoder) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return nil, &Error{Key: cmp.Or(parent, "the file"), Value: show(raw), Want: "a map of " + list(keys)}
	}
	return members, nil
}

// decodeMembers hands each member that keys names, and that is not null, to its decoder, in
// sorted order so that of several errors the same is reported every time.
func decodeMembers(parent string, members map[string]json.RawMessage, keys map[string]decoder) error {
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		if !given(members, name) {
			continue
		}
		if err := keys[name](member(parent, name), members[name]); err != nil {
			return err
		}
	}
	return nil
}

func given(members map[string]json.RawMessage, name string) bool {
	raw, ok := members[name]
	return ok && !isNull(raw)
}

// value decodes into dst what encoding/json takes for it, if ok (when given) holds.
func value[T any](dst *T, form string, ok func(T) bool) decoder {
	return func(key string, raw json.RawMessage) error {
		var v T
		if json.Unmarshal(raw, &v) != nil || (ok != nil && !ok(v)) {
			return &Error{Key: key, Value: show(raw), Want: form}
		}
		*dst = v
		return nil
	}
}

func boolean(dst *bool) decoder { return value(dst, "true or false", nil) }

func choice(dst *string, of ...string) decoder {
	form := strings.Join(slices.DeleteFunc(slices.Clone(of), func(s string) bool { return s == "" }), " or ")
	return value(dst, form, func(s string) bool { return slices.Contains(of, s) })
}

func filePath(dst *string) decoder {
	return value(dst, "an absolute path", func(s string) bool {
		return path.IsAbs(s) && !strings.Contains(s, "\x00") && !strings.HasSuffix(s, "/")
	})
}

// directory stores a clean path.
func directory(dst *string) decoder {
	return func(key string, raw json.RawMessage) error {
		err := value(dst, "an absolute path of a directory", func(s string) bool {
			return path.IsAbs(s) && !strings.Contains(s, "\x00")
		})(key, raw)
		if err == nil {
			*dst = path.Clean(*dst)
		}
		return err
	}
}

func quantities(dst *map[string]string) decoder { return strs(dst, quantityForm) }

// strs decodes a map of strings. As in the kubelet a number without quotes is an error.
func strs(dst *map[string]string, form string) decoder {
	return func(key string, raw json.RawMessage) error {
		var members map[string]json.RawMessage
		if json.Unmarshal(raw, &members) != nil {
			return &Error{Key: key, Value: show(raw), Want: "a map of signals to " + form}
		}
		m := make(map[string]string, len(members))
		for _, name := range slices.Sorted(maps.Keys(members)) {
			var s string
			if isNull(members[name]) || json.Unmarshal(members[name], &s) != nil {
				return &Error{Key: entry(key, name), Value: show(members[name]), Want: form}
			}
			m[name] = s
		}
		*dst = m
		return nil
	}
}

// duration takes what metav1.Duration takes: a string. 0 is replaced, as in the kubelet.
func duration(dst *time.Duration, zero time.Duration) decoder {
	return func(key string, raw json.RawMessage) error {
		var s string
		err := json.Unmarshal(raw, &s)
		d, parseErr := time.ParseDuration(s)
		if errors.Join(err, parseErr) != nil {
			return &Error{Key: key, Value: show(raw), Want: durationForm}
		}
		if *dst = d; d == 0 {
			*dst = zero
		}
		return nil
	}
}

// endpoint takes a unix socket as the kubelet names one.
func endpoint(dst *string) decoder {
	return value(dst, "a socket such as unix:///run/containerd/containerd.sock", func(s string) bool {
		socket := strings.TrimPrefix(s, "unix://")
		return s == "" || path.IsAbs(socket) && !strings.Contains(socket, "\x00")
	})
}

// amount takes a number of bytes or a quantity string, not below zero.
func amount(dst *int64) decoder {
	return func(key string, raw json.RawMessage) error {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			s = string(raw)
		}
		q, err := parseQuantity(s)
		if err != nil || q.Sign() < 0 || tooLarge(q) {
			return &Error{Key: key, Value: show(raw), Want: `bytes as a number or a quantity such as "1Gi"`}
		}
		*dst = q.Value()
		return nil
	}
}

// parseQuantity takes what apimachinery takes, but for exponents beyond any amount of
// anything: 1e15000000 would be written out in memory, digit by digit, for hours.
func parseQuantity(text string) (resource.Quantity, error) {
	if i := strings.LastIndexAny(text, "eE"); i >= 0 {
		if exponent, err := strconv.Atoi(text[i+1:]); errors.Is(err, strconv.ErrRange) || exponent < -maxExponent || exponent > maxExponent {
			return resource.Quantity{}, resource.ErrFormatWrong
		}
	}
	return resource.ParseQuantity(text)
}

// maxExponent is far above 2⁶³, which has 19 digits.
const maxExponent = 99

// tooLarge guards Value, which returns 0 for 1e30.
func tooLarge(q resource.Quantity) bool { return q.CmpInt64(math.MaxInt64) > 0 }

const enforceForm = "a list of pods, system-reserved, kube-reserved, their -compressible forms, or none alone"

// enforceOK holds for what the kubelet accepts (component validation, v1.34).
func enforceOK(list []string) bool {
	for _, s := range list {
		switch s {
		case "pods", "system-reserved", "kube-reserved", "system-reserved-compressible", "kube-reserved-compressible":
		case "none":
			if len(list) > 1 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// rootsOK refuses the top of the hierarchy: its direct children are the system's slices.
func rootsOK(roots []string) bool {
	for _, r := range roots {
		if !path.IsAbs(r) || path.Clean(r) != r || r == "/" || strings.Contains(r, "\x00") {
			return false
		}
	}
	return len(roots) > 0
}

func globsOK(globs []string) bool {
	for _, g := range globs {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			return false
		}
	}
	return true
}

func directoriesOK(directories map[string][]string) bool {
	for glob, dirs := range directories {
		if !path.IsAbs(glob) || !globsOK([]string{glob}) {
			return false
		}
		for _, dir := range dirs {
			if !path.IsAbs(dir) || path.Clean(dir) != dir || strings.Contains(dir, "\x00") {
				return false
			}
		}
	}
	return true
}

// member names a key below another; parent is empty at the top.
func member(parent, name string) string { return strings.TrimPrefix(parent+"."+name, ".") }

// entry names a member of a map whose keys hold dots.
func entry(key, member string) string { return key + "[" + member + "]" }

func isNull(raw json.RawMessage) bool { return string(raw) == "null" }

// unescapeHTML undoes what the YAML parser's JSON encoder does to "memory.available<1Gi".
var unescapeHTML = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&")

// show is a value for a message, short enough for one line.
func show(raw json.RawMessage) string {
	const most = 80
	text := unescapeHTML.Replace(string(raw))
	if s := []rune(text); len(s) > most {
		return string(s[:most]) + "…"
	}
	return text
}

func list(keys map[string]decoder) string {
	return strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
}

// known reports whether a threshold may name the signal.
func known(name string) bool { return slices.Contains(signal.Names(), signal.Signal(name)) }
