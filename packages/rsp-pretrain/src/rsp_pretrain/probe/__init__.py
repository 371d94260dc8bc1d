"""What a frozen encoder is good for: pose and part propagation by the public protocol (spec 3.4), embeddings of images."""
