package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestNewestKernel(t *testing.T) {
	tests := map[string]struct {
		packages         []string
		series           string
		wantPkg, wantVer string
	}{
		"the highest number, not the last letter": {
			packages: []string{"linux-image-6.18.9+deb13-cloud-amd64", "linux-image-6.18.15+deb13-cloud-amd64"},
			series:   "6.18",
			wantPkg:  "linux-image-6.18.15+deb13-cloud-amd64", wantVer: "6.18.15+deb13-cloud-amd64",
		},
		"a series is not another's beginning": {
			packages: []string{"linux-image-6.12.95+deb12-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64"},
			series:   "6.1",
			wantPkg:  "linux-image-6.1.0-50-cloud-amd64", wantVer: "6.1.0-50-cloud-amd64",
		},
		"the package that holds the image, listed first": {
			packages: []string{"linux-binary-7.3.4+deb13-cloud-amd64", "linux-image-7.3.4+deb13-cloud-amd64"},
			wantPkg:  "linux-binary-7.3.4+deb13-cloud-amd64", wantVer: "7.3.4+deb13-cloud-amd64",
		},
		"the package that holds the image, listed last": {
			packages: []string{"linux-image-7.3.4+deb13-cloud-amd64", "linux-binary-7.3.4+deb13-cloud-amd64"},
			wantPkg:  "linux-binary-7.3.4+deb13-cloud-amd64", wantVer: "7.3.4+deb13-cloud-amd64",
		},
		"any series": {
			packages: []string{"linux-image-6.18.15+deb13-cloud-amd64", "linux-binary-7.2.13+deb14-cloud-amd64"},
			wantPkg:  "linux-binary-7.2.13+deb14-cloud-amd64", wantVer: "7.2.13+deb14-cloud-amd64",
		},
		"neither other flavours nor metapackages": {
			packages: []string{"linux-image-6.1.0-50-amd64", "linux-image-6.1-cloud-amd64", "linux-image-6.1.0-50-cloud-amd64-dbg"},
			series:   "6.1",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pkg, version, ok := newestKernel(tt.packages, tt.series)
			if pkg != tt.wantPkg || version != tt.wantVer || ok != (tt.wantPkg != "") {
				t.Errorf("newestKernel = %q, %q, %t; want %q, %q", pkg, version, ok, tt.wantPkg, tt.wantVer)
			}
		})
	}
}

func TestModulesPackage(t *testing.T) {
	packages := []string{"linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.2.13+deb14-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64"}
	for name, tt := range map[string]struct{ version, want string }{
		"a package of their own": {version: "7.3.4+deb13-cloud-amd64", want: "linux-modules-7.3.4+deb13-cloud-amd64"},
		"with the image":         {version: "6.18.15+deb13-cloud-amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := modulesPackage(packages, tt.version); got != tt.want {
				t.Errorf("modulesPackage = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCachedKernel(t *testing.T) {
	const sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" // of "hello"
	tests := map[string]struct {
		sums, image string
		ok          bool
	}{
		"as it was unpacked":          {sums: sum + "  vmlinuz-6.1\n", image: "hello", ok: true},
		"damaged":                     {sums: sum + "  vmlinuz-6.1\n", image: "hell"},
		"no checksum":                 {image: "hello"},
		"a checksum file cut off":     {sums: sum[:10], image: "hello"},
		"a name outside of the cache": {sums: sum + "  ../vmlinuz-6.2\n", image: "hello"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, body := range map[string]string{checksums: tt.sums, "vmlinuz-6.1": tt.image} {
				if body == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(body), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			image, _, err := cachedKernel(dir)
			if (err == nil) != tt.ok || (tt.ok && image != filepath.Join(dir, "vmlinuz-6.1")) {
				t.Errorf("cachedKernel = %q, %v; want ok %t", image, err, tt.ok)
			}
		})
	}
}

func TestFindMirror(t *testing.T) {
	const (
		debian = "ID=debian\nVERSION_CODENAME=bookworm\n"
		uris   = "'http://a.example/debian/dists/bookworm/InRelease' x 0\n" +
			"'http://a.example/debian/dists/bookworm-updates/InRelease' x 0\n" +
			"'http://b.example/debian-security/dists/bookworm-security/InRelease' x 0\n"
	)
	tests := map[string]struct {
		release, uris, suffix, want string
	}{
		"the release's own archive": {release: debian, uris: uris, want: "http://a.example/debian"},
		"its security archive":      {release: debian, uris: uris, suffix: "-security", want: "http://b.example/debian-security"},
		"another distribution":      {release: "ID=ubuntu\nVERSION_CODENAME=bookworm\n", uris: uris},
		"another release's sources": {release: "ID=debian\nVERSION_CODENAME=trixie\n", uris: uris},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := findMirror(tt.release, tt.uris, tt.suffix)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("findMirror = %q, %t; want %q", got, ok, tt.want)
			}
		})
	}
}
