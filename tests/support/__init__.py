"""What the tests share: real images, a real registry, an ordinary user, and a count of leaks."""
