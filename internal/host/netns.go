package host

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Namespace tells one network namespace of one boot from every other.
//
// The inode alone does not: the kernel gives the number of a namespace that is gone to the next one. The cookie is never
// given twice in one boot.
type Namespace struct {
	Inode  uint64 `json:"inode"`
	Cookie uint64 `json:"cookie"` // SO_NETNS_COOKIE; 0 where the kernel has none (before 5.14)
	Boot   string `json:"boot"`   // /proc/sys/kernel/random/boot_id
}

// CurrentNamespace returns the network namespace of the calling thread.
func CurrentNamespace() (Namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return Namespace{}, fmt.Errorf("network namespace of this thread: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Namespace{}, fmt.Errorf("boot identifier: %w", err)
	}
	cookie, err := namespaceCookie()
	if err != nil {
		return Namespace{}, err
	}
	return Namespace{Inode: st.Ino, Cookie: cookie, Boot: strings.TrimSpace(string(boot))}, nil
}

func namespaceCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket to identify the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == unix.ENOPROTOOPT {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("network namespace cookie: %w", err)
	}
	return cookie, nil
}

// gone reports whether a record made in n speaks of a namespace that certainly no longer exists, seen from current: that
// of an earlier boot, or one whose inode number has since been given to current.
func (n Namespace) gone(current Namespace) bool {
	return n.Boot != current.Boot || n.Inode == current.Inode && n.Cookie != current.Cookie
}
