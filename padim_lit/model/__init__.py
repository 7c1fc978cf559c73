"""The method: backbone, projection, embedding, moments, Gaussians, anomaly map."""
